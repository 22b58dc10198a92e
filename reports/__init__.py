"""What people look at: charts drawn from run folders. Nothing is computed here that `twin.record` can compute."""
