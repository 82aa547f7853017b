output "fill_secret" {
  description = "How to fill the secret."
  value       = "aws secretsmanager put-secret-value --secret-id ${aws_secretsmanager_secret.firebolt.name} --secret-string file://service-account.json"
}

output "loader" {
  description = "Name of the loader function."
  value       = module.firebolt_cdc.loader_function_name
}

output "firebolt_s3_policy" {
  description = "What Firebolt's role needs: the document for `aws iam put-role-policy`."
  value       = module.firebolt_cdc.firebolt_s3_policy
}

output "tables" {
  description = "What was understood of each table: to be read in the plan."
  value       = module.firebolt_cdc.tables
}

output "dlq_url" {
  description = "URL of the queue for files that could not be loaded."
  value       = module.firebolt_cdc.dlq_url
}
