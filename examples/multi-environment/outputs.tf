output "functions" {
  description = "The functions with their versions."
  value       = module.firebolt_cdc.functions
}

output "tables" {
  description = "What was understood of each table: to be read in the plan."
  value       = module.firebolt_cdc.tables
}

output "firebolt_s3_policy" {
  description = "What the role that this environment names in firebolt.s3_role_arn needs, as a JSON policy."
  value       = module.firebolt_cdc.firebolt_s3_policy
}

output "package" {
  description = "The package that this environment runs."
  value       = module.firebolt_cdc.package
}
