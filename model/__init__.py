"""Networks: the segmentation network, the discriminators, and the weights they start from."""
