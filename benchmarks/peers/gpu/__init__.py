"""The peers benchmark on a GPU: what ../../peers_gpu.py runs. One file a peer; peer.py says what a peer is."""
