"""Long videos, chunk by chunk: sampling, rollouts, and what they are made from. No Lightning here."""
