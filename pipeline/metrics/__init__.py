"""What a run tells while it works: metrics as a function of its events, to Prometheus by Ray and to OpenTelemetry."""
