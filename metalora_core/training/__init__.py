"""What both training loops are made of: starts, batches, states, options, optimizer, schedule, retries."""
