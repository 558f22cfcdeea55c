"""What a person sees of a run: phases, running jobs, first results, time left."""
