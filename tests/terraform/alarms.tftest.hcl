# Alarms and dashboard: what is watched, and what silence means.

mock_provider "aws" {
  source = "./tests/terraform/mocks"
}

variables {
  name      = "fair-dev"
  region    = "eu-west-1"
  namespace = "FireboltCdc"
  alarms = {
    enabled                 = true
    dashboard               = true
    actions                 = ["arn:aws:sns:eu-west-1:123456789012:on-call"]
    ok_actions              = []
    oldest_message_seconds  = 3600
    longest_wait_seconds    = 3600
    duplicate_files_percent = 0.1
    duration_percent        = 90
  }
  loader_function             = "fair-dev-loader"
  loader_timeout_seconds      = 300
  cleanup_function            = "fair-dev-cleanup"
  migrate_function            = "fair-dev-migrate"
  queue_name                  = "fair-dev-files"
  dead_letter_queue_name      = "fair-dev-files-dlq"
  rule_dead_letter_queue_name = "fair-dev-rule-dlq"
  rule_name                   = "fair-dev-objects"
  schedule_rule_names         = { sweep = "fair-dev-sweep", reconcile = "fair-dev-reconcile", audit = "fair-dev-audit", purge = "fair-dev-purge", reload = "fair-dev-reload" }
  schedule_rates              = { sweep = 300, reconcile = 3600, audit = 86400, reload = 43200 }
  tags                        = {}
}

run "defaults" {
  module {
    source = "./modules/observability"
  }

  assert {
    condition = {
      for name in ["duplicate-files", "duplicate-rows", "failures-due-to-duplicates", "files-need-a-person"] :
      name => aws_cloudwatch_metric_alarm.this[name].metric_name
      } == {
      duplicate-files            = "DuplicateFilesPercent"
      duplicate-rows             = "DuplicateRows"
      failures-due-to-duplicates = "LoaderErrorsDueToDuplicates"
      files-need-a-person        = "FilesNeedingOperator"
    }
    error_message = "Each of the four success metrics has an alarm."
  }

  assert {
    condition = alltrue([
      for metric in ["DuplicateFilesPercent", "DuplicateRows", "LoaderErrorsDueToDuplicates", "FilesNeedingOperator"] :
      contains([
        for widget in slice(jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets, 0, 4) : widget.properties.metrics[0][1]
      ], metric)
    ])
    error_message = "The dashboard begins with the four success metrics."
  }

  assert {
    condition     = strcontains(aws_cloudwatch_dashboard.this[0].dashboard_body, "[\"FireboltCdc\",\"SchemaDrift\",\"service\",\"fair-dev\"]")
    error_message = "Columns that were added, left out, or failed a file stand on the dashboard."
  }

  assert {
    condition     = aws_cloudwatch_dashboard.this[0].dashboard_name == "fair-dev-eu-west-1"
    error_message = "Dashboards of all regions share their names, so that this one names its region."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["duplicate-files"].threshold == 0.1 && aws_cloudwatch_metric_alarm.this["duplicate-files"].comparison_operator == "GreaterThanOrEqualToThreshold"
    error_message = "Duplicate files stay below 0.1 %."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["duplicate-rows"].dimensions == tomap({ service = "fair-dev" }) && aws_cloudwatch_metric_alarm.this["duplicate-rows"].namespace == "FireboltCdc"
    error_message = "Alarms on the pipeline's own metrics read them where the handler writes them."
  }

  assert {
    condition = alltrue([
      for name, queue in { dead-letters = "fair-dev-files-dlq", undelivered-events = "fair-dev-rule-dlq" } :
      aws_cloudwatch_metric_alarm.this[name].dimensions == tomap({ QueueName = queue }) && aws_cloudwatch_metric_alarm.this[name].threshold == 0
    ])
    error_message = "One message in either dead letter queue sets off an alarm."
  }

  assert {
    condition = alltrue([
      for name in [
        "loader-errors", "loader-throttles", "loader-duration", "loader-recursion-stopped", "cleanup-errors", "cleanup-dropped", "migrate-errors",
        "oldest-message", "undelivered-objects", "sweep-not-started", "reconcile-not-started", "sweep-silent", "missing-files",
        "files-failed", "files-held", "ledger-unavailable", "longest-wait",
      ] : contains(keys(aws_cloudwatch_metric_alarm.this), name)
    ])
    error_message = "Errors, throttles, age, undelivered events, a silent sweep and the loader's own findings are watched."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["loader-recursion-stopped"].namespace == "AWS/Lambda"
      && aws_cloudwatch_metric_alarm.this["loader-recursion-stopped"].metric_name == "RecursiveInvocationsDropped"
      && aws_cloudwatch_metric_alarm.this["loader-recursion-stopped"].dimensions == tomap({ FunctionName = "fair-dev-loader" })
      && strcontains(aws_cloudwatch_metric_alarm.this["loader-recursion-stopped"].alarm_description, "put-function-recursion-config --function-name fair-dev-loader --recursive-loop Allow")
    )
    error_message = "A loader that Lambda stops as an endless loop sets off an alarm that says how to go on."
  }

  assert {
    condition     = strcontains(aws_cloudwatch_dashboard.this[0].dashboard_body, "[\"AWS/Lambda\",\"RecursiveInvocationsDropped\",\"FunctionName\",\"fair-dev-loader\"]")
    error_message = "Stopped loaders stand on the dashboard, beside errors and throttles."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["loader-duration"].threshold == 270000
    error_message = "The duration alarm goes off at 90 % of the timeout, in milliseconds."
  }

  assert {
    condition = {
      for name, alarm in aws_cloudwatch_metric_alarm.this : name => "${alarm.evaluation_periods} x ${alarm.period}" if endswith(name, "-silent")
      } == {
      sweep-silent     = "1 x 900"
      reconcile-silent = "1 x 10800"
      reload-silent    = "1 x 86400"
      audit-silent     = "2 x 86400"
    }
    error_message = "Each task that fires at least daily has a sign of life of its own: silence is three ticks left out, a day at most, and two days of a daily one. CloudWatch looks back no further for a monthly purge."
  }

  assert {
    condition = alltrue([
      for name, alarm in aws_cloudwatch_metric_alarm.this :
      alarm.namespace == "AWS/Events" && alarm.metric_name == "Invocations"
      && alarm.dimensions == tomap({ RuleName = "fair-dev-${trimsuffix(name, "-silent")}" })
      && alarm.statistic == "Sum" && alarm.comparison_operator == "LessThanThreshold" && alarm.threshold == 1
      && alarm.treat_missing_data == "breaching" && alarm.datapoints_to_alarm == alarm.evaluation_periods
      if endswith(name, "-silent")
    ])
    error_message = "A task is alive when its own rule has started it; another one that runs more often does not hide its silence."
  }

  assert {
    condition = alltrue([
      for alarm in aws_cloudwatch_metric_alarm.this :
      alarm.period % 60 == 0 && alarm.period * alarm.evaluation_periods <= (alarm.period < 3600 ? 86400 : 604800)
    ])
    error_message = "CloudWatch takes periods of whole minutes, and looks back one day, or seven with periods of an hour or more."
  }

  assert {
    condition = alltrue([
      for task in ["sweep", "reconcile", "audit", "purge", "reload"] :
      strcontains(aws_cloudwatch_dashboard.this[0].dashboard_body, "[\"AWS/Events\",\"Invocations\",\"RuleName\",\"fair-dev-${task}\"]")
    ])
    error_message = "The dashboard shows when each task was started."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["cleanup-dropped"].metric_name == "AsyncEventsDropped" && aws_cloudwatch_metric_alarm.this["cleanup-dropped"].dimensions == tomap({ FunctionName = "fair-dev-cleanup" })
    error_message = "A start that Lambda accepted and never carried out, because its concurrency is used up, is a fault too."
  }

  assert {
    condition     = alltrue([for name in ["duplicate-files", "duplicate-rows", "missing-files", "files-need-a-person"] : aws_cloudwatch_metric_alarm.this[name].treat_missing_data == "ignore"])
    error_message = "What a scheduled task found holds until its next run finds otherwise."
  }

  assert {
    condition     = alltrue([for name in ["loader-errors", "files-failed", "ledger-unavailable", "dead-letters"] : aws_cloudwatch_metric_alarm.this[name].treat_missing_data == "notBreaching"])
    error_message = "Counters without data mean that nothing happened."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_actions == toset(["arn:aws:sns:eu-west-1:123456789012:on-call"])])
    error_message = "Every alarm tells the operators."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : length(alarm.alarm_description) > 40 && length(alarm.alarm_description) <= 1024])
    error_message = "Every alarm says what it means and what to do."
  }

  assert {
    condition = alltrue([
      for name, words in {
        longest-wait               = ["engine", "ledger", "cdc_tables", "`file waiting`"]
        dead-letters               = ["message's attributes", "error_message"]
        failures-due-to-duplicates = ["duplicate delivery"]
        missing-files              = ["beyond what waits in the queue"]
        duplicate-files            = ["cleanup.retention_days"]
      } : alltrue([for word in words : strcontains(aws_cloudwatch_metric_alarm.this[name].alarm_description, word)])
    ])
    error_message = "Alarms name all that their metrics count, and where the reason stands."
  }
}

run "nothing_daily" {
  module {
    source = "./modules/observability"
  }

  variables {
    schedule_rule_names = { purge = "fair-dev-purge" }
    schedule_rates      = {}
  }

  assert {
    condition     = length([for name in keys(aws_cloudwatch_metric_alarm.this) : name if endswith(name, "-silent")]) == 0
    error_message = "Nobody waits for a task that is off, or that fires less than daily."
  }
}

run "switched_off" {
  module {
    source = "./modules/observability"
  }

  variables {
    alarms = {
      enabled                 = false
      dashboard               = false
      actions                 = []
      ok_actions              = []
      oldest_message_seconds  = 3600
      longest_wait_seconds    = 3600
      duplicate_files_percent = 0.1
      duration_percent        = 90
    }
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) == 0 && length(aws_cloudwatch_dashboard.this) == 0
    error_message = "Alarms and dashboard can be left out."
  }
}

run "dashboard_without_alarms" {
  module {
    source = "./modules/observability"
  }

  variables {
    alarms = {
      enabled                 = false
      dashboard               = true
      actions                 = []
      ok_actions              = []
      oldest_message_seconds  = 3600
      longest_wait_seconds    = 3600
      duplicate_files_percent = 0.1
      duration_percent        = 90
    }
  }

  assert {
    condition     = alltrue([for widget in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : widget.type == "metric"])
    error_message = "Without alarms the dashboard has no alarm widget, which CloudWatch would refuse."
  }
}
