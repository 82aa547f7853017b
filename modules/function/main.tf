# Created before the function, which would otherwise make it without retention at its first line.
resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = try(var.encryption.logs, false) ? var.encryption.kms_key_arn : null
  tags              = var.tags
}

resource "aws_iam_role" "this" {
  name                 = var.role_name
  path                 = var.role_path
  description          = "Role of the function ${var.name}."
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

# Its role by `id`, which is unknown while the role is replaced (another path): by `name`, which stays, the plan would keep
# what hangs on the old role, and the new one would have no rights until the next apply.
resource "aws_iam_role_policy" "this" {
  name = var.name
  role = aws_iam_role.this.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid      = "WriteLogs"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["${aws_cloudwatch_log_group.this.arn}:*"]
      }],
      [for statement in var.policy_statements : {
        for key, value in merge(statement, { Effect = "Allow" }) : key => value
        if key != "Condition" || length(statement.Condition) > 0
      }],
    )
  })
}

# EC2 knows no resource-level permissions for what Lambda does with network interfaces, so AWS's own
# policy is used. It is the one without the rights on every log group. It is of 2020; since 2024 Lambda's guide
# ("Giving Lambda functions access to resources in an Amazon VPC") asks for ec2:DescribeSubnets too.
resource "aws_iam_role_policy_attachment" "network" {
  count = var.network == null ? 0 : 1

  role       = aws_iam_role.this.id
  policy_arn = "arn:${var.partition}:iam::aws:policy/service-role/AWSLambdaENIManagementAccess"
}

resource "aws_iam_role_policy" "network" {
  count = var.network == null ? 0 : 1

  name = "${var.name}-network"
  role = aws_iam_role.this.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "DescribeSubnets"
      Effect   = "Allow"
      Action   = ["ec2:DescribeSubnets"]
      Resource = "*" # EC2 knows no resources for it
    }]
  })
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_50:Tracing needs rights on every resource (xray:PutTraceSegments), and the log lines and metrics carry the pipeline's own ids.
  #checkov:skip=CKV_AWS_115:The event source mapping limits the loader. Reserved concurrency would make throttles count against the messages.
  #checkov:skip=CKV_AWS_116:The loader's messages have a redrive policy, the cleanup's next tick repeats its work, and the migrate function is invoked synchronously.
  #checkov:skip=CKV_AWS_173:The environment holds no secrets, only where the configuration stands; Lambda encrypts it with its own key.
  #checkov:skip=CKV_AWS_272:The package is built by its user and named by its hash; who signs code can add a code signing configuration to the account's policy.
  function_name     = var.name
  description       = var.description
  role              = aws_iam_role.this.arn
  handler           = var.handler
  runtime           = var.runtime
  architectures     = [var.architecture]
  memory_size       = var.memory_mb
  timeout           = var.timeout_seconds
  s3_bucket         = var.package.bucket
  s3_key            = var.package.key
  s3_object_version = var.package.version_id
  publish           = true
  tags              = var.tags

  environment {
    variables = var.environment
  }

  ephemeral_storage {
    size = var.ephemeral_storage_mb
  }

  dynamic "vpc_config" {
    for_each = var.network == null ? [] : [var.network]

    content {
      subnet_ids         = vpc_config.value.subnet_ids
      security_group_ids = vpc_config.value.security_group_ids
    }
  }

  depends_on = [
    aws_cloudwatch_log_group.this,
    aws_iam_role_policy.this,
    aws_iam_role_policy.network,
    aws_iam_role_policy_attachment.network,
  ]
}

# Without it Lambda stops a function that feeds its own source after about 16 rounds, and drops what it was given
# ("Use Lambda recursive loop detection to prevent infinite loops", Lambda's guide). Destroying it brings that back.
resource "aws_lambda_function_recursion_config" "this" {
  count = var.recursive_loop == null ? 0 : 1

  function_name  = aws_lambda_function.this.function_name
  recursive_loop = var.recursive_loop
}

resource "aws_lambda_alias" "prod" {
  name             = "PROD"
  description      = "The version that runs."
  function_name    = aws_lambda_function.this.function_name
  function_version = var.live_version == null ? aws_lambda_function.this.version : tostring(var.live_version)

  depends_on = [var.live_after]
}
