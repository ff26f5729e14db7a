{{/* The alerts, by name. `runbook` is the anchor in docs/runbook.md. */}}
{{- define "telemetry.alerts" -}}
{{- $t := .Values.monitoring.prometheusRule.thresholds -}}
{{- $namespace := printf "namespace=%q" .Release.Namespace -}}
TelemetryRedisUnreachable:
  expr: min by (namespace, cluster, component) (message_queue_connection_status{ {{- $namespace -}} }) == 0
  for: 2m
  severity: critical
  runbook: line-cut
  summary: "{{ `{{ $labels.component }} of {{ $labels.cluster }} cannot reach Redis` }}"
  description: "{{ `Redis has not answered for two minutes. Nothing is lost: streamers wait, and continue by themselves.` }}"
TelemetryQueueLag:
  expr: max by (namespace, group) (telemetry_group_lag_seconds{ {{- $namespace -}} }) > {{ $t.lagSeconds }}
  for: 5m
  severity: warning
  runbook: lag
  summary: "{{ `Group {{ $labels.group }} is {{ $value | humanizeDuration }} behind` }}"
  description: "{{ `Its oldest batch has waited that long: there are too few collectors, PostgreSQL is too slow, or the group has no active collectors.` }}"
TelemetryNothingStored:
  expr: sum by (namespace) (max by (namespace, partition) (telemetry_backlog_entries{ {{- $namespace -}} })) > 0 and sum by (namespace) (rate(telemetry_batches_total{direction="committed", {{ $namespace -}} }[5m])) == 0
  for: 5m
  severity: critical
  runbook: postgres-down
  summary: "{{ `Batches wait, but collectors store none` }}"
  description: "{{ `{{ $value }} entries wait in the queue. PostgreSQL is unreachable or refuses writes: /readyz of the collectors shows the reason.` }}"
TelemetryNoData:
  # Over the last day, so that it fires also while no collector exports the metric.
  expr: time() - max by (namespace, cluster) (last_over_time(telemetry_last_stored_timestamp_seconds{ {{- $namespace -}} }[1d])) > {{ mul (int $t.noDataMinutes) 60 }} < {{ mul (int $t.noDataDays) 86400 }}
  for: 5m
  severity: warning
  runbook: no-data
  summary: "{{ `No data from {{ $labels.cluster }} for {{ $value | humanizeDuration }}` }}"
  description: "{{ `No rows of this cluster were stored in this time. After ` }}{{ int $t.noDataDays }}{{ ` days it is considered removed, and the alert ends.` }}"
TelemetryLatency:
  expr: histogram_quantile(0.99, sum by (namespace, source_cluster, le) (rate(cross_cluster_latency_seconds_bucket{component="collector", {{ $namespace -}} }[10m]))) > {{ $t.latencySeconds }}
  for: 10m
  severity: warning
  runbook: latency
  summary: "{{ `The latency from {{ $labels.source_cluster }} to the store is {{ $value | humanizeDuration }}` }}"
  description: "{{ `99th percentile of the last ten minutes. It contains the difference between the clocks of the clusters.` }}"
TelemetryDeadLetters:
  expr: max by (namespace) (telemetry_dead_letters_kept{ {{- $namespace -}} }) > 0
  for: 1m
  severity: warning
  runbook: dead-letters
  summary: "{{ `Batches that cannot be stored: {{ $value }}` }}"
  description: "{{ `They are kept in PostgreSQL as dead letters until you retry or drop them: telemetry dead-letters list.` }}"
TelemetryEntriesHeldBack:
  expr: max by (namespace) (telemetry_held_back_entries{ {{- $namespace -}} }) > 0
  for: 5m
  severity: warning
  runbook: held-back
  summary: "{{ `Entries are held back: {{ $value }}` }}"
  description: "{{ `Nothing is lost: they wait in the queue. Either their format is newer than the collectors, or a damaged chunk hides whether they are stored; the log of the collectors shows which.` }}"
TelemetryStoreNotPacked:
  expr: max by (namespace) (telemetry_store_oldest_unpacked_seconds{ {{- $namespace -}} }) > {{ mul (int $t.unpackedHours) 3600 }}
  for: 3h
  severity: warning
  runbook: not-packed
  summary: "{{ `The store has samples of {{ $value | humanizeDuration }} ago that are not packed` }}"
  description: "{{ `Nothing is lost and everything can be read, but it takes many times the space. The log of the collectors says why.` }}"
TelemetryMaintenanceFails:
  expr: sum by (namespace) (increase(telemetry_store_maintenance_failures_total{ {{- $namespace -}} }[1h])) > 0
  for: 1h
  severity: warning
  runbook: not-packed
  summary: "Parts of the store cannot be packed"
  description: "{{ `Damaged rows, a locked partition, a full disk: the log of the collectors names each. The rest is packed, and it is tried again.` }}"
TelemetryDiskBudget:
  expr: (sum by (namespace) (max by (namespace, form) (telemetry_store_bytes{ {{- $namespace -}} })) / max by (namespace) (telemetry_store_budget_bytes{ {{- $namespace -}} }) > {{ $t.budgetRatio }}) or (sum by (namespace) (max by (namespace, form) (predict_linear(telemetry_store_bytes{ {{- $namespace -}} }[1d], {{ mul (int $t.budgetDays) 86400 }}))) / max by (namespace) (telemetry_store_budget_bytes{ {{- $namespace -}} }) > 1)
  for: 3h
  severity: warning
  runbook: disk-budget
  summary: "{{ `{{ $value | humanizePercentage }} of the disk budget of the store are used, or will be in ` }}{{ int $t.budgetDays }}{{ ` days` }}"
  description: "{{ `Nothing is dropped for the budget. Add disk space and raise store.disk_budget, or keep samples for a shorter time (store.retention).` }}"
TelemetryFilesUnreadable:
  expr: max by (namespace, pod) (telemetry_source_files_unreadable{ {{- $namespace -}} }) > 0
  for: 10m
  severity: warning
  runbook: unreadable-files
  summary: "{{ `Streamer {{ $labels.pod }} cannot read files: {{ $value }}` }}"
  description: "{{ `They are retried every few seconds. The log of the streamer names them and the reason: permissions, open files, a volume.` }}"
TelemetryRejectedRows:
  expr: sum by (namespace) (rate(telemetry_rows_rejected_total{ {{- $namespace -}} }[15m])) / (sum by (namespace) (rate(telemetry_rows_read_total{ {{- $namespace -}} }[15m])) > 0) > {{ $t.rejectedRatio }}
  for: 15m
  severity: warning
  runbook: rejected-rows
  summary: "{{ `{{ $value | humanizePercentage }} of the rows are rejected` }}"
  description: "{{ `telemetry_rows_rejected_total shows the reasons; the view rejected_rows in PostgreSQL shows the rows.` }}"
TelemetryCertificateExpires:
  expr: min by (namespace, target) (telemetry_certificate_expiry_seconds{ {{- $namespace -}} }) < {{ mul (int $t.certificateDays) 86400 }}
  for: 15m
  severity: warning
  runbook: certificate
  summary: "{{ `The certificate of {{ $labels.target }} expires in {{ $value | humanizeDuration }}` }}"
  description: "{{ `It has not been renewed yet. A renewed file is read without a restart.` }}"
{{- end }}
