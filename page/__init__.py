"""The live page: what an edge or a cloud is doing, in a browser. Nothing else imports it but the command line."""
