"""gdn in other projects' models, a module for each."""
