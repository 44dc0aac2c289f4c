"""What nodes and their cards can do, and how a card is cut up for the model."""
