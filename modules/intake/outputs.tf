output "queue_name" {
  description = "Name of the queue."
  value       = aws_sqs_queue.files.name
}

output "queue_arn" {
  description = "ARN of the queue."
  value       = aws_sqs_queue.files.arn
}

output "queue_url" {
  description = "URL of the queue."
  value       = aws_sqs_queue.files.url
}

output "dead_letter_queue_name" {
  description = "Name of the queue for files that could not be loaded."
  value       = aws_sqs_queue.dead_letter.name
}

output "dead_letter_queue_arn" {
  description = "ARN of the queue for files that could not be loaded."
  value       = aws_sqs_queue.dead_letter.arn
}

output "dead_letter_queue_url" {
  description = "URL of the queue for files that could not be loaded."
  value       = aws_sqs_queue.dead_letter.url
}

output "rule_dead_letter_queue_name" {
  description = "Name of the queue for events that could not be delivered."
  value       = aws_sqs_queue.rule_dead_letter.name
}

output "rule_dead_letter_queue_arn" {
  description = "ARN of the queue for events that could not be delivered."
  value       = aws_sqs_queue.rule_dead_letter.arn
}

output "rule_dead_letter_queue_url" {
  description = "URL of the queue for events that could not be delivered."
  value       = aws_sqs_queue.rule_dead_letter.url
}

output "rule_name" {
  description = "Name of the EventBridge rule."
  value       = aws_cloudwatch_event_rule.objects.name
}

output "rule_arn" {
  description = "ARN of the EventBridge rule."
  value       = aws_cloudwatch_event_rule.objects.arn
}

output "event_pattern" {
  description = "The rule's event pattern, as JSON."
  value       = local.event_pattern
}
