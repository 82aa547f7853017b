output "functions" {
  description = "The functions with their versions."
  value       = module.firebolt_cdc.functions
}

output "tables" {
  description = "What was understood of each table: to be read in the plan."
  value       = module.firebolt_cdc.tables
}

output "package" {
  description = "The package that this environment runs."
  value       = module.firebolt_cdc.package
}
