"""What `import edgecloud` gives: the public names are defined here, and each uses what the packages below do."""
