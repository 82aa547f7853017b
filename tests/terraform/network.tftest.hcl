# Functions inside and outside a VPC.

mock_provider "aws" {
  source = "./tests/terraform/mocks"
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
  role_path                = "/"
  permissions_boundary_arn = null
  network                  = null
  log_retention_days       = 30
  encryption               = null
  partition                = "aws"
  tags                     = {}
}

run "outside" {
  module {
    source = "./modules/function"
  }

  assert {
    condition     = length(aws_lambda_function.this.vpc_config) == 0 && length(aws_iam_role_policy_attachment.network) == 0
    error_message = "Without network there is no VPC, and no right to make network interfaces."
  }

  assert {
    condition     = length(aws_iam_role_policy.network) == 0
    error_message = "Nor is there a right to look at subnets."
  }
}

run "inside" {
  module {
    source = "./modules/function"
  }

  variables {
    network = { subnet_ids = ["subnet-1", "subnet-2"], security_group_ids = ["sg-1"] }
  }

  assert {
    condition     = aws_lambda_function.this.vpc_config[0].subnet_ids == toset(["subnet-1", "subnet-2"]) && aws_lambda_function.this.vpc_config[0].security_group_ids == toset(["sg-1"])
    error_message = "The function runs in the given subnets and security groups."
  }

  assert {
    condition     = aws_iam_role_policy_attachment.network[0].policy_arn == "arn:aws:iam::aws:policy/service-role/AWSLambdaENIManagementAccess"
    error_message = "The role may manage network interfaces, and gets no rights on other log groups with it."
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.network[0].policy).Statement == [
      { Sid = "DescribeSubnets", Effect = "Allow", Action = ["ec2:DescribeSubnets"], Resource = "*" },
    ]
    error_message = "Lambda asks for the subnets as well, which that policy of AWS's lacks, and gets nothing more."
  }
}

run "in_china" {
  module {
    source = "./modules/function"
  }

  variables {
    partition = "aws-cn"
    network   = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
  }

  assert {
    condition     = startswith(aws_iam_role_policy_attachment.network[0].policy_arn, "arn:aws-cn:")
    error_message = "ARNs are those of the partition."
  }
}
