variable "name" {
  description = "Name of the pipeline, and value of the dimension `service` of its own metrics."
  type        = string
}

variable "region" {
  description = "AWS region."
  type        = string
}

variable "namespace" {
  description = "CloudWatch namespace of the pipeline's own metrics."
  type        = string
}

variable "alarms" {
  description = "Switches, actions and thresholds; see the root module's variable."
  type = object({
    enabled                 = bool
    dashboard               = bool
    actions                 = list(string)
    ok_actions              = list(string)
    oldest_message_seconds  = number
    longest_wait_seconds    = number
    duplicate_files_percent = number
    duration_percent        = number
  })
}

variable "loader_function" {
  description = "Name of the loader."
  type        = string
}

variable "loader_timeout_seconds" {
  description = "Timeout of the loader."
  type        = number
}

variable "cleanup_function" {
  description = "Name of the cleanup function."
  type        = string
}

variable "migrate_function" {
  description = "Name of the migrate function."
  type        = string
}

variable "queue_name" {
  description = "Name of the queue."
  type        = string
}

variable "dead_letter_queue_name" {
  description = "Name of the queue for files that could not be loaded."
  type        = string
}

variable "rule_dead_letter_queue_name" {
  description = "Name of the queue for events that could not be delivered."
  type        = string
}

variable "rule_name" {
  description = "Name of the rule that feeds the queue."
  type        = string
}

variable "schedule_rule_names" {
  description = "Name of the rule of each scheduled task."
  type        = map(string)
}

variable "schedule_rates" {
  description = "How often each task that fires at least daily is started, in seconds: their silence is a fault."
  type        = map(number)

  validation {
    condition     = alltrue([for seconds in values(var.schedule_rates) : seconds >= 60 && seconds <= 86400 && seconds % 60 == 0])
    error_message = "schedule_rates must hold whole minutes, of a day at most: CloudWatch does not look back long enough for rarer tasks."
  }
}

variable "tags" {
  description = "Tags for every alarm."
  type        = map(string)
}
