locals {
  own = { for metric in [
    "Conflicts", "DuplicateDeliveries", "DuplicateFilesPercent", "DuplicateRows", "FilesFailed", "FilesHeld",
    "FilesLoaded", "FilesNeedingOperator", "FilesRequeued", "FilesSkipped", "LedgerUnavailable",
    "LoaderErrorsDueToDuplicates", "LongestWaitSeconds", "MissingFiles", "RowsApplied", "SchemaDrift", "TablesReloaded",
    "TurnsFreed",
  ] : metric => [var.namespace, metric, "service", var.name] }

  success_metrics = [
    {
      title   = "Duplicate files, % (goal: below ${var.alarms.duplicate_files_percent})"
      metrics = [local.own.DuplicateFilesPercent]
      stat    = "Maximum"
      goal    = var.alarms.duplicate_files_percent
    },
    {
      title   = "Duplicate rows (goal: 0)"
      metrics = [local.own.DuplicateRows]
      stat    = "Maximum"
      goal    = 0
    },
    {
      title   = "Loader failures due to duplicates (goal: 0)"
      metrics = [local.own.LoaderErrorsDueToDuplicates]
      stat    = "Sum"
      goal    = 0
    },
    {
      title   = "Files that need a person (goal: 0)"
      metrics = [local.own.FilesNeedingOperator]
      stat    = "Maximum"
      goal    = 0
    },
  ]

  graphs = [
    {
      title   = "Files"
      metrics = [local.own.FilesLoaded, local.own.FilesFailed, local.own.FilesHeld, local.own.FilesSkipped]
      stat    = "Sum"
    },
    {
      title   = "Rows applied"
      metrics = [local.own.RowsApplied]
      stat    = "Sum"
    },
    {
      title   = "Duplicates refused"
      metrics = [local.own.DuplicateDeliveries]
      stat    = "Sum"
    },
    {
      title = "Queues, messages"
      metrics = [
        for queue in [var.queue_name, var.dead_letter_queue_name, var.rule_dead_letter_queue_name] :
        ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue]
      ]
      stat = "Maximum"
    },
    {
      title = "Longest wait, seconds"
      metrics = [
        ["AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", var.queue_name],
        local.own.LongestWaitSeconds,
      ]
      stat = "Maximum"
    },
    {
      title   = "Repairs"
      metrics = [local.own.MissingFiles, local.own.FilesRequeued, local.own.TurnsFreed, local.own.Conflicts, local.own.LedgerUnavailable, local.own.SchemaDrift, local.own.TablesReloaded]
      stat    = "Sum"
    },
    {
      title = "Function errors and throttles"
      metrics = concat(
        [for function in [var.loader_function, var.cleanup_function, var.migrate_function] : ["AWS/Lambda", "Errors", "FunctionName", function]],
        [for metric in ["Throttles", "RecursiveInvocationsDropped"] : ["AWS/Lambda", metric, "FunctionName", var.loader_function]],
      )
      stat = "Sum"
    },
    {
      title = "Function duration, milliseconds"
      metrics = [
        for function in [var.loader_function, var.cleanup_function] : ["AWS/Lambda", "Duration", "FunctionName", function]
      ]
      stat = "Maximum"
    },
    {
      title = "Events, and starts of the scheduled tasks"
      metrics = concat(
        [for metric in ["MatchedEvents", "FailedInvocations"] : ["AWS/Events", metric, "RuleName", var.rule_name]],
        [for rule in values(var.schedule_rule_names) : ["AWS/Events", "Invocations", "RuleName", rule]],
      )
      stat = "Sum"
    },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  count = var.alarms.dashboard ? 1 : 0

  # Dashboards have no region of their own: two pipelines of one name, in two regions, would share one.
  dashboard_name = "${var.name}-${var.region}"

  dashboard_body = jsonencode({
    widgets = concat(
      [for index, widget in local.success_metrics : {
        type   = "metric"
        x      = index * 6
        y      = 0
        width  = 6
        height = 6
        properties = {
          title       = widget.title
          region      = var.region
          view        = "timeSeries"
          stat        = widget.stat
          period      = 3600
          metrics     = widget.metrics
          annotations = { horizontal = [{ label = "goal", value = widget.goal }] }
        }
      }],
      [for index, widget in local.graphs : {
        type   = "metric"
        x      = index % 3 * 8
        y      = 6 + 6 * floor(index / 3)
        width  = 8
        height = 6
        properties = {
          title   = widget.title
          region  = var.region
          view    = "timeSeries"
          stat    = widget.stat
          period  = 300
          metrics = widget.metrics
        }
      }],
      [for alarms in [[for alarm in aws_cloudwatch_metric_alarm.this : alarm.arn]] : {
        type       = "alarm"
        x          = 0
        y          = 24
        width      = 24
        height     = 4
        properties = { title = "Alarms", alarms = alarms }
      } if length(alarms) > 0],
    )
  })
}
