# What a mocked AWS answers. Values that are compared or parsed have the form that AWS gives them.

mock_data "aws_caller_identity" {
  defaults = {
    account_id = "123456789012"
  }
}

mock_data "aws_partition" {
  defaults = {
    partition  = "aws"
    dns_suffix = "amazonaws.com"
  }
}

mock_data "aws_region" {
  defaults = {
    id = "eu-west-1"
  }
}

mock_resource "aws_sqs_queue" {
  defaults = {
    arn = "arn:aws:sqs:eu-west-1:123456789012:mock"
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/mock"
  }
}

mock_resource "aws_cloudwatch_event_rule" {
  defaults = {
    arn = "arn:aws:events:eu-west-1:123456789012:rule/mock"
  }
}

mock_resource "aws_cloudwatch_log_group" {
  defaults = {
    arn = "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/mock"
  }
}

mock_resource "aws_cloudwatch_metric_alarm" {
  defaults = {
    arn = "arn:aws:cloudwatch:eu-west-1:123456789012:alarm:mock"
  }
}

mock_resource "aws_iam_role" {
  defaults = {
    arn = "arn:aws:iam::123456789012:role/mock"
  }
}

mock_resource "aws_lambda_function" {
  defaults = {
    arn     = "arn:aws:lambda:eu-west-1:123456789012:function:mock"
    version = "7"
  }
}

mock_resource "aws_lambda_alias" {
  defaults = {
    arn = "arn:aws:lambda:eu-west-1:123456789012:function:mock:PROD"
  }
}

mock_resource "aws_s3_object" {
  defaults = {
    version_id = "config-version-1"
  }
}

mock_resource "aws_kms_key" {
  defaults = {
    arn = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }
}

mock_resource "aws_secretsmanager_secret" {
  defaults = {
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:mock-AbCdEf"
  }
}

mock_resource "aws_sns_topic" {
  defaults = {
    arn = "arn:aws:sns:eu-west-1:123456789012:mock"
  }
}

override_resource {
  target = module.intake.aws_sqs_queue.files
  values = {
    arn = "arn:aws:sqs:eu-west-1:123456789012:fair-dev-files"
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/fair-dev-files"
  }
}

override_resource {
  target = module.intake.aws_sqs_queue.dead_letter
  values = {
    arn = "arn:aws:sqs:eu-west-1:123456789012:fair-dev-files-dlq"
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/fair-dev-files-dlq"
  }
}

override_resource {
  target = module.intake.aws_sqs_queue.rule_dead_letter
  values = {
    arn = "arn:aws:sqs:eu-west-1:123456789012:fair-dev-rule-dlq"
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/fair-dev-rule-dlq"
  }
}

override_resource {
  target = module.storage.aws_s3_bucket.this
  values = {
    id  = "fair-dev-123456789012-eu-west-1"
    arn = "arn:aws:s3:::fair-dev-123456789012-eu-west-1"
  }
}
