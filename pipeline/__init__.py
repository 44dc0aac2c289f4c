"""The Ray job: plan, fetch, decode, tag, commit, finalize."""
