locals {
  schedules = { for task, expression in var.schedules : task => expression if expression != "off" }
}

resource "aws_cloudwatch_event_rule" "this" {
  for_each = local.schedules

  name                = "${var.name}-${each.key}"
  description         = "Starts the ${each.key} of ${var.name}."
  schedule_expression = each.value
  tags                = var.tags
}

# No dead letter queue: every task works on what it finds, so the next tick makes up for a lost one.
# An alarm goes off when a task that fires daily is not started at all.
resource "aws_cloudwatch_event_target" "this" {
  for_each = local.schedules

  rule      = aws_cloudwatch_event_rule.this[each.key].name
  target_id = "cleanup"
  arn       = var.alias_arn
  input     = jsonencode({ task = each.key })

  retry_policy {
    maximum_event_age_in_seconds = 300
    maximum_retry_attempts       = 3
  }

  depends_on = [aws_lambda_permission.this]
}

resource "aws_lambda_permission" "this" {
  for_each = local.schedules

  statement_id  = "AllowSchedule-${each.key}"
  action        = "lambda:InvokeFunction"
  function_name = var.function_name
  qualifier     = var.alias_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.this[each.key].arn
}

# A failed run is not repeated: the next tick does the same work.
resource "aws_lambda_function_event_invoke_config" "this" {
  function_name                = var.function_name
  qualifier                    = var.alias_name
  maximum_event_age_in_seconds = 300
  maximum_retry_attempts       = 0
}
