"""The peers benchmark: what ../peers_cpu.py runs. One file a peer; peer.py says what a peer is."""
