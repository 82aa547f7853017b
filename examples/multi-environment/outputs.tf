output "functions" {
  description = "The functions with their versions."
  value       = module.firebolt_cdc.functions
}
