# When the cleanup function runs, and with what.

mock_provider "aws" {
  source = "./tests/terraform/mocks"
}

variables {
  name = "fair-dev"
  schedules = {
    sweep     = "rate(5 minutes)"
    reconcile = "rate(1 hour)"
    audit     = "cron(15 3 * * ? *)"
    purge     = "cron(45 3 1 * ? *)"
  }
  function_name = "fair-dev-cleanup"
  alias_name    = "PROD"
  alias_arn     = "arn:aws:lambda:eu-west-1:123456789012:function:fair-dev-cleanup:PROD"
  tags          = {}
}

run "four_tasks" {
  module {
    source = "./modules/schedules"
  }

  assert {
    condition = { for task, rule in aws_cloudwatch_event_rule.this : task => rule.schedule_expression } == {
      sweep     = "rate(5 minutes)"
      reconcile = "rate(1 hour)"
      audit     = "cron(15 3 * * ? *)"
      purge     = "cron(45 3 1 * ? *)"
    }
    error_message = "Each task has a rule of its own."
  }

  assert {
    condition     = alltrue([for task, target in aws_cloudwatch_event_target.this : target.input == jsonencode({ task = task })])
    error_message = "Each rule names its task."
  }

  assert {
    condition     = alltrue([for target in aws_cloudwatch_event_target.this : endswith(target.arn, ":PROD")])
    error_message = "The rules start the alias."
  }

  assert {
    condition     = alltrue([for permission in aws_lambda_permission.this : permission.qualifier == "PROD" && permission.principal == "events.amazonaws.com" && permission.source_arn != null])
    error_message = "Each permission is for the alias and for one rule."
  }
}

run "switched_off" {
  module {
    source = "./modules/schedules"
  }

  variables {
    schedules = { sweep = "rate(5 minutes)", reconcile = "off", audit = "off", purge = "off" }
  }

  assert {
    condition     = keys(aws_cloudwatch_event_rule.this) == ["sweep"]
    error_message = "A task that is off has no rule."
  }
}
