locals {
  # From the pipeline's name alone: an unknown name, where account or region cannot be read before the apply, would replace
  # the queue and lose its messages.
  queue_names = {
    queue            = "${var.name}-files"
    dead_letter      = "${var.name}-files-dlq"
    rule_dead_letter = "${var.name}-rule-dlq"
  }
  # Built from names, so that each queue's policy can stand in the queue itself.
  queue_arns = { for key, name in local.queue_names : key => "arn:${var.partition}:sqs:${var.region}:${var.account}:${name}" }

  deny_without_tls = { for key, arn in local.queue_arns : key => [for statement in [{
    Sid       = "DenyWithoutTls"
    Effect    = "Deny"
    Principal = "*"
    Action    = "sqs:*"
    Resource  = arn
    Condition = { Bool = { "aws:SecureTransport" = "false" } }
  }] : statement if var.enforce_tls] }

  allow_rule = { for key, arn in local.queue_arns : key => [{
    Sid       = "AllowRule"
    Effect    = "Allow"
    Principal = { Service = "events.amazonaws.com" }
    Action    = "sqs:SendMessage"
    Resource  = arn
    Condition = { ArnEquals = { "aws:SourceArn" = aws_cloudwatch_event_rule.objects.arn } }
  }] }

  # One wildcard for both ends: two entries of one list would match a key that has either.
  key_filter = (
    var.prefix == "" && var.suffix == "" ? "none" :
    var.prefix == "" ? "suffix" :
    var.suffix == "" ? "prefix" : "wildcard"
  )
  key_pattern = {
    for kind, value in {
      prefix   = var.prefix
      suffix   = var.suffix
      wildcard = "${var.prefix}*${var.suffix}"
    } : kind => value if kind == local.key_filter
  }

  event_pattern = jsonencode({
    source        = ["aws.s3"]
    "detail-type" = ["Object Created"]
    detail = merge(
      { bucket = { name = [var.source_bucket] } },
      { for field in ["object"] : field => { key = [local.key_pattern] } if local.key_filter != "none" },
    )
  })
}

resource "aws_cloudwatch_event_rule" "objects" {
  name          = "${var.name}-objects"
  description   = "Files that arrive in ${var.source_bucket}."
  event_pattern = local.event_pattern
  tags          = var.tags
}

resource "aws_cloudwatch_event_target" "queue" {
  rule      = aws_cloudwatch_event_rule.objects.name
  target_id = "queue"
  arn       = aws_sqs_queue.files.arn

  dead_letter_config {
    arn = aws_sqs_queue.rule_dead_letter.arn
  }
}

# The setting is one per bucket: this replaces every other notification that the bucket has.
resource "aws_s3_bucket_notification" "eventbridge" {
  count = var.manage_eventbridge_notification ? 1 : 0

  bucket      = var.source_bucket
  eventbridge = true
}

resource "aws_sqs_queue" "files" {
  name                              = local.queue_names.queue
  message_retention_seconds         = var.retention_seconds
  visibility_timeout_seconds        = var.visibility_timeout_seconds
  sqs_managed_sse_enabled           = var.encryption == null ? true : null
  kms_master_key_id                 = var.encryption == null ? null : var.encryption.kms_key_arn
  kms_data_key_reuse_period_seconds = var.encryption == null ? null : 300
  tags                              = var.tags

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letter.arn
    maxReceiveCount     = var.max_receive_count
  })

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat(local.allow_rule.queue, local.deny_without_tls.queue)
  })
}

# What the loader could not load, with the reason in the message's attributes.
resource "aws_sqs_queue" "dead_letter" {
  name                              = local.queue_names.dead_letter
  message_retention_seconds         = var.dead_letter_retention_seconds
  sqs_managed_sse_enabled           = var.encryption == null ? true : null
  kms_master_key_id                 = var.encryption == null ? null : var.encryption.kms_key_arn
  kms_data_key_reuse_period_seconds = var.encryption == null ? null : 300
  tags                              = var.tags

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [local.queue_arns.queue]
  })

  policy = var.enforce_tls ? jsonencode({
    Version   = "2012-10-17"
    Statement = local.deny_without_tls.dead_letter
  }) : null
}

# What EventBridge could not deliver to the queue.
resource "aws_sqs_queue" "rule_dead_letter" {
  name                              = local.queue_names.rule_dead_letter
  message_retention_seconds         = var.dead_letter_retention_seconds
  sqs_managed_sse_enabled           = var.encryption == null ? true : null
  kms_master_key_id                 = var.encryption == null ? null : var.encryption.kms_key_arn
  kms_data_key_reuse_period_seconds = var.encryption == null ? null : 300
  tags                              = var.tags

  redrive_allow_policy = jsonencode({ redrivePermission = "denyAll" })

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat(local.allow_rule.rule_dead_letter, local.deny_without_tls.rule_dead_letter)
  })
}
