# `missing` says what a period without data means:
#   notBreaching  counters: no data is the good case, nothing happened;
#   ignore        findings of a scheduled task: what was found stays true until the next run finds otherwise;
#   breaching     signs of life.

locals {
  queue_alarms = {
    dead-letters = {
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = var.dead_letter_queue_name }
      description = "Messages wait in the dead letter queue: files that could not be loaded, and messages that name no file. Their reason stands in the message's attributes (error_class, error_message; file_key if there is a file), and for files in `firebolt-cdc status` too; messages without attributes used up their receives in crashes. Mend the cause, then `firebolt-cdc retry`, and purge the queue: retried files leave their message there."
    }
    undelivered-events = {
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = var.rule_dead_letter_queue_name }
      description = "EventBridge could not deliver events to the queue: look at the queue's policy and its KMS key. The files themselves are found again by reconciliation."
    }
    oldest-message = {
      namespace          = "AWS/SQS"
      metric             = "ApproximateAgeOfOldestMessage"
      dimensions         = { QueueName = var.queue_name }
      threshold          = var.alarms.oldest_message_seconds
      evaluation_periods = 3
      description        = "Files wait for the loader longer than ${var.alarms.oldest_message_seconds} s. It is paused, failing, throttled, or slower than what arrives: see loader-errors and loader-throttles, then raise loader.max_concurrency or loader.batch_size."
    }
  }

  function_alarms = {
    loader-errors = {
      namespace   = "AWS/Lambda"
      metric      = "Errors"
      statistic   = "Sum"
      dimensions  = { FunctionName = var.loader_function }
      description = "The loader raised, timed out or ran out of memory. Its files come back by themselves; the reason is in its log group."
    }
    loader-throttles = {
      namespace          = "AWS/Lambda"
      metric             = "Throttles"
      statistic          = "Sum"
      dimensions         = { FunctionName = var.loader_function }
      evaluation_periods = 3
      description        = "Lambda has refused loaders for 15 minutes: the account's concurrency is used up. Files wait and are not lost. Raise the account's limit or lower loader.max_concurrency."
    }
    loader-duration = {
      namespace   = "AWS/Lambda"
      metric      = "Duration"
      dimensions  = { FunctionName = var.loader_function }
      threshold   = var.loader_timeout_seconds * 10 * var.alarms.duration_percent
      description = "A loader took more than ${var.alarms.duration_percent} % of its ${var.loader_timeout_seconds} s. Lower loader.batch_size, or raise loader.timeout_seconds and the engine's size."
    }
    loader-recursion-stopped = {
      namespace   = "AWS/Lambda"
      metric      = "RecursiveInvocationsDropped"
      statistic   = "Sum"
      dimensions  = { FunctionName = var.loader_function }
      description = "Lambda took waiting files for an endless loop and did not start the loader; their messages end in the dead letter queue. Allow it: `aws lambda put-function-recursion-config --function-name ${var.loader_function} --recursive-loop Allow`, or apply again, and see who set it back. Sweep and reconciliation send the files again; purge the dead letter queue then."
    }
    cleanup-errors = {
      namespace   = "AWS/Lambda"
      metric      = "Errors"
      statistic   = "Sum"
      dimensions  = { FunctionName = var.cleanup_function }
      description = "A sweep, reconciliation, audit, purge or reload failed. The reason is in the cleanup function's log group; the next tick tries again."
    }
    # EventBridge has handed the start over, and Lambda has given it up: what neither FailedInvocations nor Errors counts.
    cleanup-dropped = {
      namespace   = "AWS/Lambda"
      metric      = "AsyncEventsDropped"
      statistic   = "Sum"
      dimensions  = { FunctionName = var.cleanup_function }
      description = "A scheduled task was started and came to nothing. With cleanup-errors it failed; without, Lambda refused to run the cleanup function for five minutes: the account's concurrency is used up, or somebody reserved none for the function. The next tick tries again."
    }
    migrate-errors = {
      namespace   = "AWS/Lambda"
      metric      = "Errors"
      statistic   = "Sum"
      dimensions  = { FunctionName = var.migrate_function }
      description = "Migrations failed, and so did the `terraform apply` or pipeline that ran them. Mend what the error names and apply again."
    }
  }

  rule_alarms = merge(
    {
      undelivered-objects = {
        namespace   = "AWS/Events"
        metric      = "FailedInvocations"
        statistic   = "Sum"
        dimensions  = { RuleName = var.rule_name }
        description = "EventBridge failed to hand events to the queue and gave up. Look at undelivered-events, the queue's policy and its KMS key."
      }
    },
    {
      for task, rule in var.schedule_rule_names : "${task}-not-started" => {
        namespace   = "AWS/Events"
        metric      = "FailedInvocations"
        statistic   = "Sum"
        dimensions  = { RuleName = rule }
        description = "EventBridge could not start the ${task}: look at the permission on the cleanup function's alias."
      }
    },
  )

  # By the task's own rule: invocations of the function would let a task that runs often hide the silence of another. Three
  # ticks may be left out; of a daily task a whole day, since its tick comes a little earlier or later each time.
  life_alarms = {
    for task, seconds in var.schedule_rates : "${task}-silent" => {
      namespace          = "AWS/Events"
      metric             = "Invocations"
      statistic          = "Sum"
      dimensions         = { RuleName = var.schedule_rule_names[task] }
      comparison         = "LessThanThreshold"
      threshold          = 1
      period             = min(86400, max(900, 3 * seconds))
      evaluation_periods = seconds < 86400 ? 1 : 2
      missing            = "breaching"
      description        = "The ${task} has not been started: is its rule ${var.schedule_rule_names[task]} disabled or deleted? ${lookup(local.without, task, "")} Right after the first apply this alarm clears itself with the first run."
    }
  }
  without = {
    sweep     = "Until it runs, files that a crash or a person left pending are not sent again."
    reconcile = "Until it runs, files whose event was lost are not found."
    audit     = "Until it runs, nobody looks for duplicates."
    purge     = "Until it runs, old ledger rows stay."
    reload    = "Until it runs, tables with reload = \"auto\" keep their old rows."
  }

  # The four success metrics first.
  own_alarms = {
    duplicate-files = {
      metric      = "DuplicateFilesPercent"
      comparison  = "GreaterThanOrEqualToThreshold"
      threshold   = var.alarms.duplicate_files_percent
      missing     = "ignore"
      description = "${var.alarms.duplicate_files_percent} % or more of the file versions were applied more than once, the last time within cleanup.retention_days; it ends by itself when they are older. Was deduplication switched off? The runbook has the query that names them."
    }
    duplicate-rows = {
      metric      = "DuplicateRows"
      missing     = "ignore"
      description = "The audit found rows that share a primary key. The cleanup function's log names the tables, the runbook has the query for their keys. They may be older than this pipeline, or have another writer."
    }
    failures-due-to-duplicates = {
      metric      = "LoaderErrorsDueToDuplicates"
      statistic   = "Sum"
      description = "A loader raised in an invocation that had a duplicate delivery of some file in it. Duplicates are refused and should fail nothing: whether it is their doing says the error in the loader's log group."
    }
    files-need-a-person = {
      metric      = "FilesNeedingOperator"
      missing     = "ignore"
      description = "Files are failed for good, or held, until somebody decides. `firebolt-cdc status` lists them with the way out."
    }
    missing-files = {
      metric      = "MissingFiles"
      missing     = "ignore"
      description = "S3 holds more files that are neither applied nor in the ledger, beyond what waits in the queue: no event announced them. Each reconciliation sends some to the loader (cleanup.queue_limit less the queue's length). Is EventBridge on at the source bucket, and the rule enabled? Files from before the pipeline, too, count here until they are loaded."
    }
    files-failed = {
      metric      = "FilesFailed"
      statistic   = "Sum"
      description = "Files were failed for good. The ledger's error_message says why; mend the cause, then `firebolt-cdc retry`."
    }
    files-held = {
      metric      = "FilesHeld"
      statistic   = "Sum"
      description = "Files are held because loading them now could be wrong, after a reload of their table for instance. `firebolt-cdc status` lists them with the reason, such as `firebolt-cdc reload TABLE`; `firebolt-cdc retry FILE --yes` loads one all the same."
    }
    ledger-unavailable = {
      metric              = "LedgerUnavailable"
      statistic           = "Sum"
      evaluation_periods  = 3
      datapoints_to_alarm = 2
      description         = "The ledger could not be read or written, so nothing is loaded. Is the engine running, the secret right, the schema migrated? `firebolt-cdc doctor` tells."
    }
    longest-wait = {
      metric      = "LongestWaitSeconds"
      threshold   = var.alarms.longest_wait_seconds
      description = "A file has waited more than ${var.alarms.longest_wait_seconds} s. The log line `file waiting`, or `Error checking if file processed`, has the reason: another load holds the turn of its table (`firebolt-cdc status` shows who), the engine, the ledger or S3 cannot be reached (`firebolt-cdc doctor`), or its table has no row in cdc_tables (`firebolt-cdc migrate --yes`)."
    }
  }

  alarms = merge(
    local.queue_alarms,
    local.function_alarms,
    local.rule_alarms,
    local.life_alarms,
    { for name, alarm in local.own_alarms : name => merge({ namespace = var.namespace, dimensions = { service = var.name } }, alarm) },
  )
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = { for name, alarm in local.alarms : name => alarm if var.alarms.enabled }

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = lookup(each.value, "statistic", "Maximum")
  period              = lookup(each.value, "period", 300)
  evaluation_periods  = lookup(each.value, "evaluation_periods", 1)
  datapoints_to_alarm = lookup(each.value, "datapoints_to_alarm", lookup(each.value, "evaluation_periods", 1))
  comparison_operator = lookup(each.value, "comparison", "GreaterThanThreshold")
  threshold           = lookup(each.value, "threshold", 0)
  treat_missing_data  = lookup(each.value, "missing", "notBreaching")
  alarm_actions       = var.alarms.actions
  ok_actions          = var.alarms.ok_actions
  tags                = var.tags
}
