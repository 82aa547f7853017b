output "functions" {
  description = "The functions with their versions."
  value       = module.firebolt_cdc.functions
}

output "tables" {
  description = "What was understood of each table: to be read in the plan."
  value       = module.firebolt_cdc.tables
}

output "dashboard" {
  description = "Name of the dashboard."
  value       = module.firebolt_cdc.dashboard_name
}

output "dead_letter_queues" {
  description = "Where to look when an alarm goes off."
  value = {
    files  = module.firebolt_cdc.dlq_url
    events = module.firebolt_cdc.rule_dlq_url
  }
}
