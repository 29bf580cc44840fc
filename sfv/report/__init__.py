"""What people look at: HTML reports, TensorBoard video, encoded clips."""
