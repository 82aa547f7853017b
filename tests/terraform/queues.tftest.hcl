# The queue, its two dead letter queues, and who may send to them.

mock_provider "aws" {
  source = "./tests/terraform/mocks"
}

variables {
  name                            = "fair-dev"
  partition                       = "aws"
  region                          = "eu-west-1"
  account                         = "123456789012"
  source_bucket                   = "fair-source"
  prefix                          = "firebolt_dms_job/"
  suffix                          = ".parquet"
  manage_eventbridge_notification = false
  retention_seconds               = 345600
  dead_letter_retention_seconds   = 1209600
  visibility_timeout_seconds      = 1820
  max_receive_count               = 10
  encryption                      = null
  enforce_tls                     = true
  tags                            = {}
}

run "defaults" {
  module {
    source = "./modules/intake"
  }

  assert {
    condition = jsondecode(aws_sqs_queue.files.policy).Statement[0] == {
      Sid       = "AllowRule"
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = "arn:aws:sqs:eu-west-1:123456789012:fair-dev-files"
      Condition = { ArnEquals = { "aws:SourceArn" = "arn:aws:events:eu-west-1:123456789012:rule/mock" } }
    }
    error_message = "This rule, and no other, may send to the queue."
  }

  assert {
    condition = jsondecode(aws_sqs_queue.rule_dead_letter.policy).Statement[0] == {
      Sid       = "AllowRule"
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = "arn:aws:sqs:eu-west-1:123456789012:fair-dev-rule-dlq"
      Condition = { ArnEquals = { "aws:SourceArn" = "arn:aws:events:eu-west-1:123456789012:rule/mock" } }
    }
    error_message = "Without this statement EventBridge drops what it cannot deliver, in silence."
  }

  assert {
    condition     = aws_cloudwatch_event_target.queue.dead_letter_config[0].arn == aws_sqs_queue.rule_dead_letter.arn
    error_message = "Events that cannot be delivered are kept."
  }

  assert {
    condition     = length(aws_s3_bucket_notification.eventbridge) == 0
    error_message = "The bucket's notifications, which have one owner, are left alone."
  }

  assert {
    condition     = jsondecode(aws_sqs_queue.files.redrive_policy) == { deadLetterTargetArn = aws_sqs_queue.dead_letter.arn, maxReceiveCount = 10 }
    error_message = "A message that keeps crashing the loader ends in the dead letter queue."
  }

  assert {
    condition     = jsondecode(aws_sqs_queue.dead_letter.redrive_allow_policy) == { redrivePermission = "byQueue", sourceQueueArns = ["arn:aws:sqs:eu-west-1:123456789012:fair-dev-files"] }
    error_message = "Only this queue redrives to it."
  }

  assert {
    condition     = aws_sqs_queue.dead_letter.message_retention_seconds > aws_sqs_queue.files.message_retention_seconds
    error_message = "SQS counts a dead letter's age from its first send, so its queue must keep it longer."
  }

  assert {
    condition     = aws_sqs_queue.files.visibility_timeout_seconds == 1820
    error_message = "The visibility timeout is the one that was worked out from the loader's."
  }

  assert {
    condition     = alltrue([for queue in [aws_sqs_queue.files, aws_sqs_queue.dead_letter, aws_sqs_queue.rule_dead_letter] : queue.sqs_managed_sse_enabled])
    error_message = "All queues are encrypted without a customer key."
  }

  assert {
    condition = alltrue([
      for queue in [aws_sqs_queue.files, aws_sqs_queue.dead_letter, aws_sqs_queue.rule_dead_letter] : anytrue([
        for statement in jsondecode(queue.policy).Statement :
        statement.Effect == "Deny" && try(statement.Condition.Bool["aws:SecureTransport"] == "false", false)
      ])
    ])
    error_message = "No queue takes requests without TLS."
  }
}

run "encryption_by_customer_key" {
  module {
    source = "./modules/intake"
  }

  variables {
    encryption = { kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/module" }
  }

  assert {
    condition     = alltrue([for queue in [aws_sqs_queue.files, aws_sqs_queue.dead_letter, aws_sqs_queue.rule_dead_letter] : queue.kms_master_key_id == "arn:aws:kms:eu-west-1:123456789012:key/module"])
    error_message = "All queues use the customer key."
  }
}

run "emulator_without_tls" {
  module {
    source = "./modules/intake"
  }

  variables {
    enforce_tls = false
  }

  assert {
    condition     = length(jsondecode(aws_sqs_queue.files.policy).Statement) == 1
    error_message = "enforce_tls = false leaves the statement out."
  }
}

run "eventbridge_switched_on" {
  module {
    source = "./modules/intake"
  }

  variables {
    manage_eventbridge_notification = true
  }

  assert {
    condition     = aws_s3_bucket_notification.eventbridge[0].eventbridge
    error_message = "The module switches EventBridge on at the bucket when it is asked to."
  }
}
