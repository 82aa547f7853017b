# What the functions may do, read from their policies.

mock_provider "aws" {
  source = "./tests/terraform/mocks"
}

variables {
  name          = "fair-dev"
  source_bucket = { name = "fair-source", prefix = "firebolt_dms_job/" }
  firebolt      = { database = "firebolt", core_url = "http://core.internal:3473" }
  tables        = { "fair/sessions" = { primary_key = ["sid"] }, "fair/events" = {} }
  package_s3    = { bucket = "releases", key = "firebolt-cdc.zip" }
}

run "least_privilege" {
  assert {
    condition = alltrue(flatten([
      for policy in output.policies : [
        for statement in jsondecode(policy).Statement : [
          for resource in flatten([statement.Resource]) : resource != "*" && !startswith(resource, "arn:aws:s3:::*")
        ]
      ]
    ]))
    error_message = "No statement has a wildcard for its resource."
  }

  assert {
    condition = alltrue(flatten([
      for policy in output.policies : [
        for statement in jsondecode(policy).Statement : [for action in flatten([statement.Action]) : !strcontains(action, "*")]
      ]
    ]))
    error_message = "No statement has a wildcard for its action."
  }

  assert {
    condition = alltrue(flatten([
      for policy in output.policies : [for statement in jsondecode(policy).Statement : statement.Effect == "Allow"]
    ]))
    error_message = "Policies only allow."
  }

  assert {
    condition = alltrue(flatten([
      for policy in output.policies : [
        for statement in jsondecode(policy).Statement : [
          for action in statement.Action : contains(["s3:GetObject", "s3:ListBucket"], action)
        ] if anytrue([for resource in statement.Resource : startswith(resource, "arn:aws:s3:::fair-source")])
      ]
    ]))
    error_message = "No function can write to the bucket that triggers the loader."
  }

  assert {
    condition = one([
      for statement in jsondecode(output.policies.loader).Statement : statement.Resource if statement.Sid == "ReadSource"
    ]) == ["arn:aws:s3:::fair-source/firebolt_dms_job/*"]
    error_message = "The loader reads below the prefix only."
  }

  assert {
    condition = alltrue(flatten([
      for policy in output.policies : [
        for statement in jsondecode(policy).Statement :
        statement.Condition.StringLike["s3:prefix"] == ["firebolt_dms_job/*"] if statement.Sid == "ListSource"
      ]
    ]))
    error_message = "The bucket is listed below the prefix only."
  }

  assert {
    condition     = !contains([for statement in jsondecode(output.policies.cleanup).Statement : statement.Sid], "ReadSource")
    error_message = "The cleanup function lists files and never reads them."
  }

  assert {
    condition = { for function, policy in output.policies : function => toset([for statement in jsondecode(policy).Statement : statement.Sid]) } == {
      loader  = toset(["WriteLogs", "ReadConfig", "ReadSource", "ListSource", "UseStaging", "ListStaging", "ReceiveFromQueue", "SendToQueues"])
      cleanup = toset(["WriteLogs", "ReadConfig", "ListSource", "UseStaging", "ListStaging", "MeasureQueue", "SendToQueue"])
      migrate = toset(["WriteLogs", "ReadConfig", "ListSource", "UseStaging", "ListStaging"])
    }
    error_message = "Each function has what its work needs; without a secret or a customer key there is no statement for one."
  }

  assert {
    condition = one([
      for statement in jsondecode(output.policies.loader).Statement : statement if statement.Sid == "ReadConfig"
      ]) == {
      Sid      = "ReadConfig"
      Effect   = "Allow"
      Action   = ["s3:GetObjectVersion"]
      Resource = ["arn:aws:s3:::fair-dev-123456789012-eu-west-1/config/config.json"]
    }
    error_message = "The configuration is read by its version, and by nothing but its version."
  }

  assert {
    condition = one([
      for statement in jsondecode(output.policies.loader).Statement : statement.Resource if statement.Sid == "UseStaging"
    ]) == ["arn:aws:s3:::fair-dev-123456789012-eu-west-1/staging/*"]
    error_message = "Staged files are all that a function can write to S3."
  }

  assert {
    condition = one([
      for statement in jsondecode(output.policies.loader).Statement : statement.Action if statement.Sid == "UseStaging"
    ]) == ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
    error_message = "Staged files are put and copied in one piece each, so no function needs the rights of multipart uploads."
  }

  assert {
    condition = one([
      for statement in jsondecode(output.policies.loader).Statement : statement.Resource if statement.Sid == "SendToQueues"
      ]) == [
      "arn:aws:sqs:eu-west-1:123456789012:fair-dev-files",
      "arn:aws:sqs:eu-west-1:123456789012:fair-dev-files-dlq",
    ]
    error_message = "The loader sends to its queue and to the dead letter queue."
  }

  assert {
    condition = one([
      for statement in jsondecode(output.policies.cleanup).Statement : statement if statement.Sid == "SendToQueue"
      ]) == {
      Sid      = "SendToQueue"
      Effect   = "Allow"
      Action   = ["sqs:SendMessage"]
      Resource = ["arn:aws:sqs:eu-west-1:123456789012:fair-dev-files"]
    }
    error_message = "The cleanup function announces files on the queue, and fails none."
  }

  assert {
    condition = one([
      for statement in jsondecode(output.policies.loader).Statement : statement.Resource if statement.Sid == "WriteLogs"
    ]) == ["arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/mock:*"]
    error_message = "A function writes to its own log group."
  }
}

run "service_account" {
  variables {
    firebolt = {
      database           = "firebolt"
      account_name       = "fair"
      engine_name        = "cdc"
      secret_arn         = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:firebolt-AbCdEf"
      secret_kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/secret"
      s3_role_arn        = "arn:aws:iam::123456789012:role/firebolt"
    }
  }

  assert {
    condition = alltrue([
      for policy in output.policies : one([
        for statement in jsondecode(policy).Statement : statement if statement.Sid == "ReadSecret"
        ]) == {
        Sid      = "ReadSecret"
        Effect   = "Allow"
        Action   = ["secretsmanager:GetSecretValue"]
        Resource = ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:firebolt-AbCdEf"]
      }
    ])
    error_message = "Each function reads that one secret."
  }

  assert {
    condition = alltrue([
      for policy in output.policies : one([
        for statement in jsondecode(policy).Statement : statement.Condition.StringEquals["kms:ViaService"] if statement.Sid == "DecryptSecret"
      ]) == ["secretsmanager.eu-west-1.amazonaws.com"]
    ])
    error_message = "The secret's key is used through Secrets Manager only."
  }
}

run "customer_keys" {
  variables {
    source_bucket = {
      name         = "fair-source"
      prefix       = "firebolt_dms_job/"
      kms_key_arns = ["arn:aws:kms:eu-west-1:123456789012:key/old", "arn:aws:kms:eu-west-1:123456789012:key/new"]
    }
    encryption = { kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/module" }
  }

  assert {
    condition = one([
      for statement in jsondecode(output.policies.loader).Statement : statement if statement.Sid == "DecryptSource"
      ]) == {
      Sid       = "DecryptSource"
      Effect    = "Allow"
      Action    = ["kms:Decrypt"]
      Resource  = ["arn:aws:kms:eu-west-1:123456789012:key/old", "arn:aws:kms:eu-west-1:123456789012:key/new"]
      Condition = { StringEquals = { "kms:ViaService" = ["s3.eu-west-1.amazonaws.com"] } }
    }
    error_message = "Only the loader decrypts source files, and only through S3."
  }

  assert {
    condition     = !contains([for statement in jsondecode(output.policies.cleanup).Statement : statement.Sid], "DecryptSource")
    error_message = "The cleanup function reads no source file, so it needs no source key."
  }

  assert {
    condition = alltrue([
      for policy in output.policies : one([
        for statement in jsondecode(policy).Statement : statement.Action if statement.Sid == "UseModuleKey"
      ]) == ["kms:Decrypt", "kms:GenerateDataKey"]
    ])
    error_message = "Every function can use the module's key."
  }

  assert {
    condition = [for statement in jsondecode(output.kms_key_policy_statements) : statement.Principal.Service] == [
      "events.amazonaws.com", "logs.eu-west-1.amazonaws.com",
    ]
    error_message = "The key's policy must let EventBridge write to the encrypted queue."
  }

  assert {
    condition     = jsondecode(output.kms_key_policy_statements)[0].Condition.ArnEquals["aws:SourceArn"] == "arn:aws:events:eu-west-1:123456789012:rule/fair-dev-objects"
    error_message = "EventBridge may use the key for this rule only."
  }

  assert {
    condition = jsonencode(jsondecode(output.firebolt_s3_policy).Statement) == jsonencode([
      {
        Sid      = "ReadFiles"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:GetObjectVersion"]
        Resource = ["arn:aws:s3:::fair-source/firebolt_dms_job/*", "arn:aws:s3:::fair-dev-123456789012-eu-west-1/staging/*"]
      },
      {
        Sid      = "LocateBuckets"
        Effect   = "Allow"
        Action   = ["s3:GetBucketLocation"]
        Resource = ["arn:aws:s3:::fair-source", "arn:aws:s3:::fair-dev-123456789012-eu-west-1"]
      },
      {
        Sid       = "ListSource"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = ["arn:aws:s3:::fair-source"]
        Condition = { StringLike = { "s3:prefix" = ["firebolt_dms_job/*"] } }
      },
      {
        Sid       = "ListStaging"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = ["arn:aws:s3:::fair-dev-123456789012-eu-west-1"]
        Condition = { StringLike = { "s3:prefix" = ["staging/*"] } }
      },
      {
        Sid       = "DecryptFiles"
        Effect    = "Allow"
        Action    = ["kms:Decrypt"]
        Resource  = ["arn:aws:kms:eu-west-1:123456789012:key/old", "arn:aws:kms:eu-west-1:123456789012:key/new", "arn:aws:kms:eu-west-1:123456789012:key/module"]
        Condition = { StringEquals = { "kms:ViaService" = ["s3.eu-west-1.amazonaws.com"] } }
      },
    ])
    error_message = "Firebolt's role has the rights that Firebolt's guide asks for, on both buckets, and never writes."
  }
}

# Role policies follow the newest configuration at once; messages, and functions that PROD still points to, do not.
run "former_keys_and_secrets" {
  variables {
    firebolt = {
      database                   = "firebolt"
      account_name               = "fair"
      engine_name                = "cdc"
      secret_arn                 = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:new-AbCdEf"
      former_secret_arns         = ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:old-AbCdEf"]
      former_secret_kms_key_arns = ["arn:aws:kms:eu-west-1:123456789012:key/old-secret"]
      s3_role_arn                = "arn:aws:iam::123456789012:role/firebolt"
    }
    encryption = {
      kms_key_arn         = "arn:aws:kms:eu-west-1:123456789012:key/new"
      former_kms_key_arns = ["arn:aws:kms:eu-west-1:123456789012:key/old"]
    }
  }

  assert {
    condition = alltrue([
      for policy in output.policies : [
        for statement in jsondecode(policy).Statement : statement if contains(["ReadFormerSecrets", "DecryptFormerSecrets", "DecryptFormerKeys"], statement.Sid)
        ] == [
        {
          Sid      = "ReadFormerSecrets"
          Effect   = "Allow"
          Action   = ["secretsmanager:GetSecretValue"]
          Resource = ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:old-AbCdEf"]
        },
        {
          Sid       = "DecryptFormerSecrets"
          Effect    = "Allow"
          Action    = ["kms:Decrypt"]
          Resource  = ["arn:aws:kms:eu-west-1:123456789012:key/old-secret"]
          Condition = { StringEquals = { "kms:ViaService" = ["secretsmanager.eu-west-1.amazonaws.com"] } }
        },
        {
          Sid       = "DecryptFormerKeys"
          Effect    = "Allow"
          Action    = ["kms:Decrypt"]
          Resource  = ["arn:aws:kms:eu-west-1:123456789012:key/old"]
          Condition = { StringEquals = { "kms:ViaService" = ["s3.eu-west-1.amazonaws.com", "sqs.eu-west-1.amazonaws.com"] } }
        },
      ]
    ])
    error_message = "What was encrypted with a former key is still read, and nothing new is encrypted with it; a former secret is still read."
  }

  assert {
    condition = one([for statement in jsondecode(output.firebolt_s3_policy).Statement : statement.Resource if statement.Sid == "DecryptFiles"]) == [
      "arn:aws:kms:eu-west-1:123456789012:key/new", "arn:aws:kms:eu-west-1:123456789012:key/old",
    ]
    error_message = "Firebolt reads files that were staged with the former key."
  }
}

run "reloads_by_itself" {
  variables {
    source_bucket = {
      name         = "fair-source"
      prefix       = "firebolt_dms_job/"
      kms_key_arns = ["arn:aws:kms:eu-west-1:123456789012:key/source"]
    }
    tables = {
      "fair/sessions" = { primary_key = ["sid"], reload = "auto" }
      "fair/events"   = {}
    }
  }

  assert {
    condition = [
      for statement in jsondecode(output.policies.cleanup).Statement : statement.Resource
      if contains(["ReadSource", "DecryptSource"], statement.Sid)
      ] == [
      ["arn:aws:s3:::fair-source/firebolt_dms_job/*"],
      ["arn:aws:kms:eu-west-1:123456789012:key/source"],
    ]
    error_message = "A cleanup function that carries out reloads reads the source, and nothing else in its bucket."
  }

  assert {
    condition     = contains(keys(module.schedules.rule_names), "reload")
    error_message = "Reloads have a schedule of their own."
  }
}

run "function_role" {
  module {
    source = "./modules/function"
  }

  variables {
    name                     = "fair-dev-loader"
    description              = "Test."
    handler                  = "firebolt_cdc.loader.handler"
    package                  = { bucket = "releases", key = "firebolt-cdc.zip", identity = "1" }
    runtime                  = "python3.13"
    architecture             = "arm64"
    memory_mb                = 512
    timeout_seconds          = 60
    environment              = {}
    policy_statements        = []
    role_name                = "fair-dev-eu-west-1-loader"
    role_path                = "/cdc/"
    permissions_boundary_arn = "arn:aws:iam::123456789012:policy/boundary"
    network                  = null
    log_retention_days       = 30
    encryption               = null
    partition                = "aws"
    tags                     = {}
  }

  assert {
    condition     = jsondecode(aws_iam_role.this.assume_role_policy).Statement[0].Principal == { Service = "lambda.amazonaws.com" }
    error_message = "Only Lambda assumes the role."
  }

  assert {
    condition     = aws_iam_role.this.permissions_boundary == "arn:aws:iam::123456789012:policy/boundary" && aws_iam_role.this.path == "/cdc/"
    error_message = "The boundary and the path that the organisation asks for are set."
  }

  assert {
    condition     = aws_cloudwatch_log_group.this.retention_in_days == 30
    error_message = "Log lines are not kept for ever."
  }

  assert {
    condition     = aws_lambda_function.this.publish
    error_message = "Each change publishes a version, to which one can roll back."
  }
}
