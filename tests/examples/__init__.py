"""The applications under examples/, started as their README says."""
