"""One inference, or many: the only room that knows both networks and sockets."""
