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
      description = "Files could not be loaded and wait in the dead letter queue. `firebolt-cdc status` names them with their reason; mend the cause, then `firebolt-cdc retry`, and purge the queue: retried files leave their message there."
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
    cleanup-errors = {
      namespace   = "AWS/Lambda"
      metric      = "Errors"
      statistic   = "Sum"
      dimensions  = { FunctionName = var.cleanup_function }
      description = "A sweep, reconciliation, audit or purge failed. The reason is in the cleanup function's log group; the next tick tries again."
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

  life_alarms = {
    for name, alarm in {
      cleanup-silent = {
        namespace   = "AWS/Lambda"
        metric      = "Invocations"
        statistic   = "Sum"
        dimensions  = { FunctionName = var.cleanup_function }
        comparison  = "LessThanThreshold"
        threshold   = 1
        period      = var.sweep_rate_seconds == null ? 86400 : min(86400, max(900, 3 * var.sweep_rate_seconds))
        missing     = "breaching"
        description = "No cleanup has run: is its rule disabled or deleted? Until it runs, files that a crash or a person left pending are not sent again. Right after the first apply this alarm clears itself."
      }
    } : name => alarm if var.sweep_is_on && (var.sweep_rate_seconds == null ? true : var.sweep_rate_seconds <= 86400)
  }

  # The four success metrics first.
  own_alarms = {
    duplicate-files = {
      metric      = "DuplicateFilesPercent"
      comparison  = "GreaterThanOrEqualToThreshold"
      threshold   = var.alarms.duplicate_files_percent
      missing     = "ignore"
      description = "${var.alarms.duplicate_files_percent} % or more of the file versions were applied more than once. Was deduplication switched off? The runbook has the query that names them."
    }
    duplicate-rows = {
      metric      = "DuplicateRows"
      missing     = "ignore"
      description = "The audit found rows that share a primary key. The cleanup function's log names the tables, the runbook has the query for their keys. They may be older than this pipeline, or have another writer."
    }
    failures-due-to-duplicates = {
      metric      = "LoaderErrorsDueToDuplicates"
      statistic   = "Sum"
      description = "A load failed because another delivery of the same file, or another load of the same table, was in its way. This should never happen: see the loader's log group."
    }
    files-need-a-person = {
      metric      = "FilesNeedingOperator"
      missing     = "ignore"
      description = "Files are failed for good, or held, until somebody decides. `firebolt-cdc status` lists them with the way out."
    }
    missing-files = {
      metric      = "MissingFiles"
      missing     = "ignore"
      description = "Reconciliation found objects in S3 that no event announced, and has sent them to the loader. Is EventBridge on at the source bucket, and the rule enabled?"
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
      description = "A file has waited more than ${var.alarms.longest_wait_seconds} s, for the turn of its table (`firebolt-cdc status` shows who holds it) or for AWS to answer (the loader's log says)."
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
