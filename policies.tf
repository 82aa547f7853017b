# What each function may do, besides writing to its own log group and, in a VPC, what Lambda needs for its network interfaces
# (modules/function). No statement has a wildcard resource, and none lets a function write below the source prefix: that
# would trigger it.

locals {
  staging_arn = "${module.storage.bucket_arn}/${local.staging_prefix}*"

  policy = {
    read_config = {
      Sid      = "ReadConfig"
      Action   = ["s3:GetObjectVersion"]
      Resource = ["${module.storage.bucket_arn}/config/config.json"]
    }
    read_source = {
      Sid      = "ReadSource"
      Action   = ["s3:GetObject"]
      Resource = ["${local.source_bucket_arn}/${var.source_bucket.prefix}*"]
    }
    # Besides listing, this makes S3 answer 404 and not 403 for an object that is gone.
    list_source = {
      Sid       = "ListSource"
      Action    = ["s3:ListBucket"]
      Resource  = [local.source_bucket_arn]
      Condition = { StringLike = { "s3:prefix" = ["${var.source_bucket.prefix}*"] } }
    }
    use_staging = {
      Sid      = "UseStaging"
      Action   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
      Resource = [local.staging_arn]
    }
    list_staging = {
      Sid       = "ListStaging"
      Action    = ["s3:ListBucket"]
      Resource  = [module.storage.bucket_arn]
      Condition = { StringLike = { "s3:prefix" = ["${local.staging_prefix}*"] } }
    }
    receive = {
      Sid      = "ReceiveFromQueue"
      Action   = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
      Resource = [module.intake.queue_arn]
    }
    measure = {
      Sid      = "MeasureQueue"
      Action   = ["sqs:GetQueueAttributes"]
      Resource = [module.intake.queue_arn]
    }
    send = {
      Sid      = "SendToQueues"
      Action   = ["sqs:SendMessage"]
      Resource = [module.intake.queue_arn, module.intake.dead_letter_queue_arn]
    }
    announce = {
      Sid      = "SendToQueue"
      Action   = ["sqs:SendMessage"]
      Resource = [module.intake.queue_arn]
    }
  }

  policy_secret = [for arn in [var.firebolt.secret_arn] : {
    Sid      = "ReadSecret"
    Action   = ["secretsmanager:GetSecretValue"]
    Resource = [arn]
  } if arn != null]

  policy_secret_key = [for arn in [var.firebolt.secret_kms_key_arn] : {
    Sid       = "DecryptSecret"
    Action    = ["kms:Decrypt"]
    Resource  = [arn]
    Condition = { StringEquals = { "kms:ViaService" = ["secretsmanager.${local.region}.${local.dns_suffix}"] } }
  } if arn != null]

  # A role has the newest configuration's policy at once; PROD moves to the version that reads it only when migrations have
  # run, and messages stay encrypted as they were sent.
  policy_former = concat(
    [for arns in [var.firebolt.former_secret_arns] : {
      Sid      = "ReadFormerSecrets"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = arns
    } if length(arns) > 0],
    [for arns in [var.firebolt.former_secret_kms_key_arns] : {
      Sid       = "DecryptFormerSecrets"
      Action    = ["kms:Decrypt"]
      Resource  = arns
      Condition = { StringEquals = { "kms:ViaService" = ["secretsmanager.${local.region}.${local.dns_suffix}"] } }
    } if length(arns) > 0],
    [for arns in [local.former_kms_key_arns] : {
      Sid      = "DecryptFormerKeys"
      Action   = ["kms:Decrypt"]
      Resource = arns
      Condition = { StringEquals = { "kms:ViaService" = [
        "s3.${local.region}.${local.dns_suffix}",
        "sqs.${local.region}.${local.dns_suffix}",
      ] } }
    } if length(arns) > 0],
  )

  former_kms_key_arns = flatten([for encryption in [var.encryption] : encryption.former_kms_key_arns if encryption != null])

  policy_source_key = [for arns in [var.source_bucket.kms_key_arns] : {
    Sid       = "DecryptSource"
    Action    = ["kms:Decrypt"]
    Resource  = arns
    Condition = { StringEquals = { "kms:ViaService" = ["s3.${local.region}.${local.dns_suffix}"] } }
  } if length(arns) > 0]

  policy_module_key = [for encryption in [var.encryption] : {
    Sid      = "UseModuleKey"
    Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
    Resource = [encryption.kms_key_arn]
    Condition = { StringEquals = { "kms:ViaService" = [
      "s3.${local.region}.${local.dns_suffix}",
      "sqs.${local.region}.${local.dns_suffix}",
    ] } }
  } if encryption != null]

  dns_suffix = data.aws_partition.current.dns_suffix

  loader_policy = concat(
    [
      local.policy.read_config,
      local.policy.read_source,
      local.policy.list_source,
      local.policy.use_staging,
      local.policy.list_staging,
      local.policy.receive,
      local.policy.send,
    ],
    local.policy_secret,
    local.policy_secret_key,
    local.policy_source_key,
    local.policy_module_key,
    local.policy_former,
  )

  cleanup_policy = concat(
    [
      local.policy.read_config,
      local.policy.list_source,
      local.policy.use_staging,
      local.policy.list_staging,
      local.policy.measure,
      local.policy.announce,
    ],
    # Only where it carries out reloads does it read files.
    [for statement in concat([local.policy.read_source], local.policy_source_key) : statement if local.reloads_by_itself],
    local.policy_secret,
    local.policy_secret_key,
    local.policy_module_key,
    local.policy_former,
  )

  migrate_policy = concat(
    [
      local.policy.read_config,
      local.policy.list_source,
      local.policy.use_staging,
      local.policy.list_staging,
    ],
    local.policy_secret,
    local.policy_secret_key,
    local.policy_module_key,
    local.policy_former,
  )
}
