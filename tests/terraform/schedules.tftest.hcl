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

# How often a task fires decides whether its silence is a fault: `local.schedule_rates`, in seconds.
run "rates" {
  module {
    source = "./"
  }

  variables {
    source_bucket = { name = "fair-source", prefix = "firebolt_dms_job/" }
    firebolt      = { database = "firebolt", core_url = "http://core.internal:3473" }
    tables        = { "fair/sessions" = { primary_key = ["sid"] } }
    package_s3    = { bucket = "releases", key = "firebolt-cdc.zip" }
  }

  assert {
    condition     = local.schedule_rates == { sweep = 300, reconcile = 3600, audit = 86400 }
    error_message = "By default all but the monthly purge fire at least daily."
  }
}

run "rates_of_the_caller" {
  module {
    source = "./"
  }

  variables {
    source_bucket = { name = "fair-source", prefix = "firebolt_dms_job/" }
    firebolt      = { database = "firebolt", core_url = "http://core.internal:3473" }
    tables        = { "fair/sessions" = { primary_key = ["sid"], reload = "auto" } }
    package_s3    = { bucket = "releases", key = "firebolt-cdc.zip" }
    cleanup = {
      sweep_schedule     = "cron(0/10 6-20 ? * MON-FRI *)"
      reconcile_schedule = "rate(7 days)"
      audit_schedule     = "cron(0 9 ? * * *)"
      purge_schedule     = "cron(0 4 1/2 * ? *)"
      reload_schedule    = "rate(24 hours)"
    }
  }

  assert {
    condition     = local.schedule_rates == { audit = 86400, reload = 86400 }
    error_message = "A cron expression counts as daily if no day, month or year is left out."
  }

  assert {
    condition     = toset([for name in keys(output.alarm_arns) : name if endswith(name, "-silent")]) == toset(["audit-silent", "reload-silent"])
    error_message = "Tasks that rest at the week-end raise no alarm then."
  }
}
