{{- define "redis.fullname" -}}
{{- $name := default (ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) .Chart.IsRoot) .Values.fullnameOverride -}}
{{- if gt (len $name) 40 -}}
{{- printf "%s-%s" (trunc 31 $name | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- else -}}
{{- $name | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "redis.selectorLabels" -}}
app.kubernetes.io/name: redis-cluster
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: redis
{{- end }}

{{- define "redis.labels" -}}
{{- $labels := dict
  "app.kubernetes.io/name" "redis-cluster"
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/component" "redis"
  "app.kubernetes.io/managed-by" .Release.Service
  "app.kubernetes.io/part-of" "telemetry"
  "app.kubernetes.io/version" .Chart.AppVersion
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- toYaml (merge $labels .Values.commonLabels) -}}
{{- end }}

{{- define "redis.image" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end }}

{{- define "redis.nodes" -}}
{{- mul (int .Values.cluster.shards) (add1 (int .Values.cluster.replicas)) -}}
{{- end }}

{{- define "redis.headless" -}}
{{ include "redis.fullname" . }}-headless.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{/* "true" when each node listens on a port of its own. */}}
{{- define "redis.nodePorts" -}}
{{- if and .Values.external.enabled (eq .Values.external.type "NodePort") }}true{{ end -}}
{{- end }}
{{- define "redis.port" -}}
{{- if include "redis.nodePorts" . }}{{ int .Values.external.nodePortBase }}{{ else }}6379{{ end -}}
{{- end }}

{{/* The announced name of node .node. */}}
{{- define "redis.hostname" -}}
{{- $name := include "redis.fullname" .root -}}
{{- if not .root.Values.external.enabled -}}
{{ $name }}-{{ .node }}.{{ include "redis.headless" .root }}
{{- else if .root.Values.external.hostnames -}}
{{ index .root.Values.external.hostnames .node }}
{{- else -}}
{{ $name }}-{{ .node }}.{{ .root.Values.external.domain }}
{{- end -}}
{{- end }}

{{- define "redis.authSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-auth" (include "redis.fullname" .)) -}}
{{- end }}
{{- define "redis.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "redis.fullname" .)) -}}
{{- end }}
{{/* "true" when cert-manager creates the certificate. */}}
{{- define "redis.certManager" -}}
{{- with .Values.tls }}{{- if and .enabled (not .existingSecret) (not .cert) }}true{{ end -}}{{- end -}}
{{- end }}

{{/* The ACL rules of one user, from acl.yaml. {root, sides: [edge, central]} */}}
{{- define "redis.rights" -}}
{{- $acl := .root.Files.Get "acl.yaml" | fromYaml -}}
{{- $rights := list -}}
{{- range $acl.connection }}{{- $rights = append $rights (printf "+%s" .) }}{{- end -}}
{{- range .sides -}}
{{- range get $acl . -}}
{{- $words := list -}}
{{- range .commands }}{{- $words = append $words (printf "+%s" .) }}{{- end -}}
{{- range .keys }}{{- $words = append $words (printf "~%s" (replace "{prefix:" (printf "{%s:" $.root.Values.acl.prefix) .)) }}{{- end -}}
{{- $rights = append $rights (printf "(%s)" (join " " $words)) -}}
{{- end -}}
{{- end -}}
{{- join " " $rights -}}
{{- end }}

{{/* Variables of every container that runs a script. */}}
{{- define "redis.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: NAME
  value: {{ include "redis.fullname" . }}
- name: HEADLESS
  value: {{ include "redis.headless" . }}
- name: PORT
  value: {{ include "redis.port" . | quote }}
- name: PORT_STEP
  value: {{ ternary "1" "0" (eq (include "redis.nodePorts" .) "true") | quote }}
- name: TLS_ENABLED
  value: {{ .Values.tls.enabled | quote }}
{{- end }}

{{- define "redis.mounts" -}}
- name: config
  mountPath: /etc/redis/config
  readOnly: true
- name: auth
  mountPath: /etc/redis/auth
  readOnly: true
{{- if .Values.tls.enabled }}
- name: tls
  mountPath: /etc/redis/tls
  readOnly: true
{{- end }}
- name: run
  mountPath: /run/redis
{{- end }}

{{- define "redis.volumes" -}}
- name: config
  configMap:
    name: {{ include "redis.fullname" . }}
- name: auth
  secret:
    secretName: {{ include "redis.authSecret" . }}
    defaultMode: 0440
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "redis.tlsSecret" . }}
    defaultMode: 0440
{{- end }}
- name: run
  emptyDir:
    medium: Memory
    sizeLimit: 4Mi
{{- end }}

{{/* A size in bytes: Redis' 1gb, 1g, and Kubernetes' 1Gi, 1G. */}}
{{- define "redis.bytes" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]*$" $text -}}
{{- $factors := dict "" 1 "k" 1000 "kb" 1024 "Ki" 1024 "K" 1000 "m" 1000000 "mb" 1048576 "Mi" 1048576 "M" 1000000 "g" 1000000000 "gb" 1073741824 "Gi" 1073741824 "G" 1000000000 "Ti" 1099511627776 "T" 1000000000000 -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $factors $unit | default 1 | float64) | int64 -}}
{{- end }}

{{/* Values that are missing or contradict each other. */}}
{{- define "redis.problems" -}}
{{- $v := .Values -}}
{{- $passwords := dict "auth.password" $v.auth.password "auth.edge.password" $v.auth.edge.password "auth.central.password" $v.auth.central.password "auth.admin.password" $v.auth.admin.password "auth.exporter.password" $v.auth.exporter.password -}}
{{- $given := list -}}
{{- range $key, $value := $passwords -}}
{{- if kindIs "float64" $value }}
- {{ $key }} is a number in a values file, and would lose digits: put it in quotes
{{- end -}}
{{- if $value }}{{- $given = append $given $key }}{{- end -}}
{{- if regexMatch "[\\r\\n]+[^\\r\\n]" (toString $value) }}
- {{ $key }} has a line break in it: remove it
{{- end -}}
{{- if regexMatch "^\\$\\{" (toString $value) }}
- {{ $key }} is the text ${…}: Helm does not expand variables in values files. Let the shell expand it: --set {{ $key }}="${NAME}"; or set a Secret in auth.existingSecret
{{- end -}}
{{- end }}
{{- if and $given $v.auth.existingSecret }}
- {{ join ", " $given }} and auth.existingSecret are both set: remove one of them
{{- end }}
{{- if not (or $v.auth.existingSecret $v.auth.password $v.auth.admin.password) }}
- nodes need a password for each other: set auth.existingSecret (a Secret with admin-password), auth.admin.password or auth.password
{{- end }}
{{- if and (not $v.auth.existingSecret) $v.auth.admin.password (not (or $v.auth.password $v.auth.edge.password $v.auth.central.password)) }}
- no client can log in: set auth.edge.password and auth.central.password, or auth.password
{{- end }}
{{- with $v.tls }}
{{- if not .enabled -}}
{{- if or .existingSecret .ca .cert .key .certManager.issuerRef }}
- certificates are set, but tls.enabled=false: set tls.enabled=true, or remove them
{{- end -}}
{{- else }}
{{- if and .existingSecret (or .ca .cert .key .certManager.issuerRef) }}
- tls.existingSecret cannot be combined with tls.ca, cert, key or certManager.issuerRef: put everything into the Secret
{{- end }}
{{- if and (or .ca .cert .key) (not (and .ca .cert .key)) }}
- tls.ca, tls.cert and tls.key must be set together
{{- end }}
{{- if and .cert .certManager.issuerRef }}
- tls.cert and tls.certManager.issuerRef are both set: remove one of them
{{- end }}
{{- end }}
{{- end }}
{{- range $key, $value := dict "external.domain" $v.external.domain "external.hostnames" (join "," $v.external.hostnames) "external.seedHostname" $v.external.seedHostname "acl.prefix" $v.acl.prefix -}}
{{- if contains "${" $value }}
- {{ $key }} is the text {{ $value }}: Helm does not expand variables in values files. Let the shell expand it: --set {{ $key }}="${NAME}"
{{- end -}}
{{- end }}
{{- $owned := list -}}
{{- range splitList "\n" $v.extraConfig -}}
{{- $word := splitList " " (trim .) | first | lower -}}
{{- if or (has $word (list "port" "tls-port" "bind" "dir" "user" "aclfile" "requirepass" "masterauth" "masteruser" "maxmemory" "appendonly" "cluster-enabled" "cluster-config-file" "cluster-node-timeout")) (hasPrefix "cluster-announce-" $word) (hasPrefix "cluster-preferred-" $word) (hasPrefix "tls-" $word) }}{{- $owned = append $owned $word }}{{- end -}}
{{- if and (eq $word "maxmemory-policy") (not (regexMatch "\\snoeviction\\s*$" .)) }}
- extraConfig: {{ trim . }} lets Redis evict parts of the queue; only noeviction keeps it
{{- end -}}
{{- end -}}
{{- with $owned }}
- extraConfig sets {{ uniq . | join ", " }}, which this chart sets: use the value of the chart instead
{{- end }}
{{- with $v.resources.limits }}{{- with .memory }}
{{- $data := include "redis.bytes" (lower $v.maxmemory) | int64 }}{{- $limit := include "redis.bytes" . | int64 }}
{{- if ge $data $limit }}
- maxmemory={{ $v.maxmemory }} is not below resources.limits.memory={{ . }}: Kubernetes would kill the node before it is full. Leave a third for buffers and for the copy that an AOF rewrite makes
{{- end }}
{{- end }}{{- end }}
{{- with $v.external }}
{{- if and .enabled .loadBalancerSourceRanges (ne .type "LoadBalancer") }}
- external.loadBalancerSourceRanges is set, but has no effect with external.type={{ .type }}: use networkPolicy.cidrs
{{- end }}
{{- $nodes := include "redis.nodes" $ | int }}
{{- if and .enabled (not .domain) (not .hostnames) }}
- external.enabled=true needs external.domain (nodes are {{ include "redis.fullname" $ }}-<n>.<domain>) or external.hostnames
{{- end }}
{{- if and .domain .hostnames }}
- external.domain and external.hostnames are both set: remove one of them
{{- end }}
{{- if and .hostnames (ne (len .hostnames) $nodes) }}
- external.hostnames has {{ len .hostnames }} names, and there are {{ $nodes }} nodes (cluster.shards × (1 + cluster.replicas))
{{- end }}
{{- if and (not .enabled) (or .domain .hostnames) }}
- external.domain or external.hostnames is set, but external.enabled=false: set external.enabled=true
{{- end }}
{{- if and .enabled (eq .type "NodePort") (or (lt (int .nodePortBase) 1024) (gt (int (add (int .nodePortBase) $nodes)) 55535)) }}
- external.nodePortBase={{ int .nodePortBase }}: {{ $nodes }} ports from this one on must be free on every Kubernetes node, between 1024 and 55535 (the cluster bus uses the port + 10000)
{{- end }}
{{- end }}
{{- if and $v.exporter.enabled (include "redis.nodePorts" .) }}
- exporter.enabled=true cannot be combined with external.type=NodePort: each node then has its own port, which the exporter in its pod does not know; run one exporter outside the chart, with all nodes as targets
{{- end }}
{{- if and $v.exporter.serviceMonitor.enabled (not $v.exporter.enabled) }}
- exporter.serviceMonitor.enabled=true needs exporter.enabled=true
{{- end }}
{{- end }}
