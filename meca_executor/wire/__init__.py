"""What travels between client, gateway and workers: pure encoding and decoding, no I/O."""
