"""What a finished run did and cost, for people and programs: report.html, JSON, CSV, Markdown; two runs compared."""
