{{/* The pod template of all components. Takes {root, key}: key of the component in the values. */}}

{{/* Everything that differs between components, as a dict: {label, role, args, env, volumes, mounts, ports, config, preStop}. */}}
{{- define "telemetry.component" -}}
{{- $root := .root }}{{- $v := get $root.Values .key -}}
{{- $c := get (include "telemetry.components" . | fromYaml) .key -}}
{{- $args := list $c.role "--config" "/etc/telemetry/config/telemetry.toml" -}}
{{- $env := list (dict "name" "CLUSTER_NAME" "value" (include "telemetry.clusterName" $root)) -}}
{{- $volumes := list }}{{- $mounts := list -}}
{{- $ports := list (dict "name" "metrics" "containerPort" 9464 "protocol" "TCP") -}}
{{- $grace := int $v.terminationGracePeriodSeconds -}}
{{- $own := dict
  "log" (dict "format" $root.Values.log.format "level" $root.Values.log.level)
  "admin" (dict "listen" (include "telemetry.hostPort" (dict "host" $root.Values.listenAddress "port" 9464))) -}}
{{- $preStop := 0 -}}

{{- $connections := list -}}
{{- with include "telemetry.redis" $root | fromYaml }}{{- $connections = append $connections . }}{{- end -}}
{{- if has .key (list "collector" "apiGateway") -}}
{{- $connections = append $connections (include "telemetry.postgres" $root | fromYaml) -}}
{{- end -}}
{{- range $connections -}}
{{- $env = concat $env (default list .env) }}{{- $volumes = concat $volumes (default list .volumes) }}{{- $mounts = concat $mounts (default list .mounts) -}}
{{- end -}}

{{- if $root.Values.redis.tls.insecureSkipVerify -}}
{{- $_ := set $own "redis" (dict "tls" (dict "insecure_skip_verify" true)) -}}
{{- end -}}

{{- if eq .key "streamer" -}}
{{- $csv := $v.csv }}{{- $patterns := list -}}
{{- range $csv.patterns }}{{- $patterns = append $patterns (printf "/var/lib/dcgm/%s" .) }}{{- end -}}
{{- $_ := set $own "stream" (dict "csv" ($patterns | default (list "/var/lib/dcgm")) "follow" true) -}}
{{- $source := dict -}}
{{- $mount := dict "name" "csv" "mountPath" "/var/lib/dcgm" "readOnly" true -}}
{{- if eq $csv.source "configMap" -}}
{{- $map := dict "name" ($csv.configMap.name | default (printf "%s-csv" (include "telemetry.fullname" $root))) -}}
{{- if not (or $csv.configMap.name $csv.configMap.data) }}{{- $_ := set $map "optional" true }}{{- end -}}
{{- $source = dict "configMap" $map -}}
{{- else if eq $csv.source "persistentVolumeClaim" -}}
{{- $source = dict "persistentVolumeClaim" (dict "claimName" $csv.persistentVolumeClaim.claimName) -}}
{{- with $csv.persistentVolumeClaim.subPath }}{{- $_ := set $mount "subPath" . }}{{- end -}}
{{- else if eq $csv.source "hostPath" -}}
{{- $source = dict "hostPath" (dict "path" $csv.hostPath.path "type" "Directory") -}}
{{- else -}}
{{- $source = $csv.volume -}}
{{- end -}}
{{- $volumes = append $volumes (merge (dict "name" "csv") $source) -}}
{{- $mounts = append $mounts $mount -}}
{{- end -}}

{{- if eq .key "apiGateway" -}}
{{- $ports = prepend $ports (dict "name" "http" "containerPort" 8080 "protocol" "TCP") -}}
{{- $_ := set $own "http" (dict "listen" (include "telemetry.hostPort" (dict "host" $root.Values.listenAddress "port" 8080))) -}}
{{- with $v.trustedProxies }}{{- $_ := set $own.http "trusted_proxies" . }}{{- end -}}
{{- if semverCompare ">=1.30-0" $root.Capabilities.KubeVersion.Version }}{{- $preStop = int $v.preStopSeconds }}{{- end -}}
{{- if $v.auth.existingSecret -}}
{{- $env = append $env (dict "name" "TELEMETRY_API_TOKENS_FILE" "value" "/etc/telemetry/api/tokens") -}}
{{- $items := list (dict "key" $v.auth.existingSecretKey "path" "tokens") -}}
{{- $volumes = append $volumes (dict "name" "api" "secret" (dict "secretName" $v.auth.existingSecret "items" $items "defaultMode" 0444)) -}}
{{- $mounts = append $mounts (dict "name" "api" "mountPath" "/etc/telemetry/api" "readOnly" true) -}}
{{- else -}}
{{- $args = append $args "--insecure-open" -}}
{{- end -}}
{{- if $v.tls.enabled -}}
{{- $secret := $v.tls.existingSecret | default (printf "%s-api-gateway-tls" (include "telemetry.fullname" $root)) -}}
{{- $items := list (dict "key" "tls.crt" "path" "tls.crt") (dict "key" "tls.key" "path" "tls.key") -}}
{{- $volumes = append $volumes (dict "name" "api-tls" "secret" (dict "secretName" $secret "items" $items "defaultMode" 0444)) -}}
{{- $mounts = append $mounts (dict "name" "api-tls" "mountPath" "/etc/telemetry/api-tls" "readOnly" true) -}}
{{- $_ := set $own.http "tls_cert_file" "/etc/telemetry/api-tls/tls.crt" -}}
{{- $_ := set $own.http "tls_key_file" "/etc/telemetry/api-tls/tls.key" -}}
{{- end -}}
{{- end -}}

{{- $_ := set $own "shutdown" (dict "deadline" (printf "%ds" (sub (sub $grace $preStop) 5))) -}}
{{- $config := mergeOverwrite (deepCopy $root.Values.config) (deepCopy $v.config) $own -}}
{{- dict "label" $c.label "role" $c.role "args" $args "env" $env "volumes" $volumes "mounts" $mounts "ports" $ports "config" $config "preStop" $preStop | toYaml -}}
{{- end }}

{{/* The configuration file. */}}
{{- define "telemetry.configFile" -}}
{{- include "telemetry.toml" (dict "path" "" "table" .) | trim -}}
{{- end }}

{{/* Variables of a container: the user's override the chart's, so each name appears once. */}}
{{- define "telemetry.env" -}}
{{- $extra := .extra -}}
{{- $env := list -}}
{{- range .own -}}
{{- if not (include "telemetry.hasEnv" (dict "env" $extra "name" .name)) }}{{- $env = append $env . }}{{- end -}}
{{- end -}}
{{- concat $env $extra | toYaml -}}
{{- end }}

{{/* Metadata and spec of a pod. {root, key, args: instead of the role's (for a test)} */}}
{{- define "telemetry.pod" -}}
{{- $root := .root }}{{- $v := get $root.Values .key -}}
{{- $c := include "telemetry.component" . | fromYaml -}}
{{- $test := .args -}}
metadata:
  annotations:
    checksum/config: {{ include "telemetry.configFile" $c.config | sha256sum }}
    {{- with include "telemetry.secretsChecksum" (dict "root" $root "key" .key) }}
    checksum/secrets: {{ . }}
    {{- end }}
    kubectl.kubernetes.io/default-container: {{ $c.label }}
    {{- with $v.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "telemetry.podLabels" (dict "root" $root "component" $c.label "extra" $v.podLabels) | nindent 4 }}
spec:
  {{- include "telemetry.podSpec" (dict "root" $root "key" .key "component" $c "args" $test) | nindent 2 }}
{{- end }}

{{- define "telemetry.podSpec" -}}
{{- $root := .root }}{{- $v := get $root.Values .key }}{{- $c := .component -}}
serviceAccountName: {{ include "telemetry.serviceAccountName" $root }}
automountServiceAccountToken: false
# Without variables of the Services in the namespace (REDIS_PORT=tcp://…), which the program would not understand.
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml (mergeOverwrite (deepCopy $root.Values.podSecurityContext) (deepCopy $v.podSecurityContext)) | nindent 2 }}
terminationGracePeriodSeconds: {{ int $v.terminationGracePeriodSeconds }}
{{- with $v.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
containers:
  - name: {{ ternary $c.label "check" (empty .args) }}
    image: {{ include "telemetry.image" (dict "root" $root "image" $root.Values.image) | quote }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args:
      {{- toYaml (.args | default $c.args) | nindent 6 }}
    env:
      {{- $env := $c.env }}
      {{- /* What a flag of the role sets. */}}
      {{- if and .args (has "--insecure-open" $c.args) }}{{- $env = append $env (dict "name" "TELEMETRY__HTTP__INSECURE_OPEN" "value" "true") }}{{- end }}
      {{- include "telemetry.env" (dict "own" $env "extra" (default list $v.extraEnv)) | nindent 6 }}
    {{- with $v.extraEnvFrom }}
    envFrom:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if not .args }}
    ports:
      {{- toYaml $c.ports | nindent 6 }}
    livenessProbe:
      {{- $live := dict "httpGet" (dict "path" "/livez" "port" "metrics") "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 3 }}
      {{- toYaml (mergeOverwrite $live (deepCopy $v.livenessProbe)) | nindent 6 }}
    readinessProbe:
      {{- $ready := dict "httpGet" (dict "path" "/readyz" "port" "metrics") "periodSeconds" 5 "timeoutSeconds" 5 "failureThreshold" 3 }}
      {{- toYaml (mergeOverwrite $ready (deepCopy $v.readinessProbe)) | nindent 6 }}
    {{- if $c.preStop }}
    lifecycle:
      preStop:
        sleep:
          seconds: {{ int $c.preStop }}
    {{- end }}
    {{- end }}
    resources:
      {{- toYaml $v.resources | nindent 6 }}
    securityContext:
      {{- toYaml (mergeOverwrite (deepCopy $root.Values.securityContext) (deepCopy $v.securityContext)) | nindent 6 }}
    volumeMounts:
      - name: config
        mountPath: /etc/telemetry/config
        readOnly: true
      {{- with concat (default list $c.mounts) $v.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  {{- if not .args }}
  {{- with $v.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
volumes:
  - name: config
    configMap:
      name: {{ include "telemetry.fullname" $root }}-{{ $c.label }}
  {{- with concat (default list $c.volumes) $v.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- include "telemetry.placement" (dict "root" $root "values" $v "label" $c.label) }}
{{- end }}

{{/* Where a pod may run. */}}
{{- define "telemetry.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
{{- $selector := dict "matchLabels" (include "telemetry.selectorLabels" (dict "root" $.root "component" $.label) | fromYaml) }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml (merge (deepCopy .) (dict "labelSelector" $selector)) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Checksum of the Secrets that the chart creates from values and that the component mounts. The program reads files again by itself;
     new pods make a value that does not work show during the upgrade, not later. */}}
{{- define "telemetry.secretsChecksum" -}}
{{- $v := .root.Values }}{{- $secrets := list -}}
{{- if $v.redis.enabled -}}
{{- $secrets = list $v.redis.auth.password $v.redis.tls.ca -}}
{{- else -}}
{{- $secrets = list $v.redis.external.password $v.redis.tls.ca $v.redis.tls.cert $v.redis.tls.key -}}
{{- end -}}
{{- if has .key (list "collector" "apiGateway") -}}
{{- $secrets = concat $secrets (ternary (list $v.postgresql.auth.password) (list $v.postgresql.external.password $v.postgresql.external.tls.ca) $v.postgresql.enabled) -}}
{{- end -}}
{{- if join "" $secrets -}}
{{- join "\n" (prepend $secrets .root.Release.Name) | sha256sum -}}
{{- end -}}
{{- end }}
