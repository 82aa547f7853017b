output "alarm_arns" {
  description = "ARN of each alarm, by its short name."
  value       = { for name, alarm in aws_cloudwatch_metric_alarm.this : name => alarm.arn }
}

output "dashboard_name" {
  description = "Name of the dashboard, or null."
  value       = one(aws_cloudwatch_dashboard.this[*].dashboard_name)
}
