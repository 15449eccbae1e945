"""What tests of several folders share: stand-ins, small bundles and checkpoints, records."""
