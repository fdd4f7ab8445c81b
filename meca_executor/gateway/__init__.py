"""The gateway: sessions, the broker that decides, and the Socket.IO server in front of them."""
