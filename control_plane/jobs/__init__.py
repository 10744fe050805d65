"""Work that takes longer than a step of a controller: repair, and admission of replicas."""
