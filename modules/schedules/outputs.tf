output "rule_names" {
  description = "Name of the rule of each task that is on."
  value       = { for task, rule in aws_cloudwatch_event_rule.this : task => rule.name }
}
