"""Networks that torchvision does not have, with the scripts that trained them."""
