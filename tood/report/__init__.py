"""What is shown of a study: tables, claims, figures, pages."""
