"""Training of ACE++ models: samples and loss as upstream has them."""
