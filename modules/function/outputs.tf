output "function_name" {
  description = "Name of the function."
  value       = aws_lambda_function.this.function_name
}

output "function_arn" {
  description = "ARN of the function, without a version."
  value       = aws_lambda_function.this.arn
}

output "version" {
  description = "The newest published version."
  value       = aws_lambda_function.this.version
}

output "alias_name" {
  description = "Name of the alias that runs."
  value       = aws_lambda_alias.prod.name
}

output "alias_arn" {
  description = "ARN of the alias that runs, once what starts it may do so."
  value       = aws_lambda_alias.prod.arn

  depends_on = [aws_lambda_function_recursion_config.this]
}

output "recursive_loop" {
  description = "What Lambda does when the function feeds its own source: `Allow`, `Terminate`, or null for Lambda's default."
  value       = one(aws_lambda_function_recursion_config.this[*].recursive_loop)
}

output "live_version" {
  description = "The version that the alias points to."
  value       = aws_lambda_alias.prod.function_version
}

output "memory_mb" {
  description = "The function's memory in MB."
  value       = aws_lambda_function.this.memory_size
}

output "role_arn" {
  description = "ARN of the function's role."
  value       = aws_iam_role.this.arn
}

output "role_name" {
  description = "Name of the function's role."
  value       = aws_iam_role.this.name
}

output "policy" {
  description = "The role's inline policy, as JSON."
  value       = aws_iam_role_policy.this.policy
}

output "log_group_name" {
  description = "Name of the function's log group."
  value       = aws_cloudwatch_log_group.this.name
}
