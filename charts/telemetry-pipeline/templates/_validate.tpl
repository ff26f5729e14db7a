{{/* Values that are missing or contradict each other: all problems at once, each with its key and what to do. */}}

{{- define "telemetry.problems" -}}
{{- $v := .Values }}{{- $redis := $v.redis }}{{- $pg := $v.postgresql -}}

{{- range tuple "clusterName" "image" "redis" "postgresql" "config" "streamer.csv" "streamer.extraEnv" "collector.extraEnv" "apiGateway.extraEnv" "probe.extraEnv" "streamer.config" "collector.config" "apiGateway.config" "probe.config" "apiGateway.auth" "apiGateway.tls" "apiGateway.ingress.hosts" "monitoring" "networkPolicy" -}}
{{- $value := $v -}}
{{- range splitList "." . }}{{- $value = get $value . }}{{- end -}}
{{- include "telemetry.unexpanded" (dict "path" . "value" $value) -}}
{{- end -}}

{{- if not (or $v.streamer.enabled $v.collector.enabled $v.apiGateway.enabled $v.probe.enabled) }}
- nothing is enabled: set streamer.enabled, collector.enabled, apiGateway.enabled or probe.enabled to true
{{- end }}

{{- /* Where Redis is. */}}
{{- if not (include "telemetry.redis.configured" .) -}}
{{- $without := list -}}
{{- range $key := list "streamer" "collector" "probe" -}}
{{- $c := get $v $key -}}
{{- if and $c.enabled (not (include "telemetry.hasEnv" (dict "env" $c.extraEnv "name" "REDIS_URL"))) (not $c.extraEnvFrom) -}}
{{- $without = append $without $key -}}
{{- end -}}
{{- end -}}
{{- with $without }}
- there is no Redis for {{ join ", " . }}: set redis.external.host (any node of a cluster), or redis.enabled=true for one in this release
{{- end -}}
{{- end }}
{{- if $redis.enabled -}}
{{- range $key := list "host" "username" "password" "existingSecret" "externalNameService" -}}
{{- if get $redis.external $key }}
- redis.external.{{ $key }} is set, but redis.enabled=true runs a Redis in this release: set redis.enabled=false to use the external one{{ if has $key (list "password" "existingSecret") }}, or set the password of the one in this release as redis.auth.{{ $key }}{{ end }}
{{- end -}}
{{- end -}}
{{- else -}}
{{- range $key := list "password" "existingSecret" -}}
{{- if get $redis.auth $key }}
- redis.auth.{{ $key }} is for the Redis of this release, but redis.enabled=false: use redis.external.{{ $key }}
{{- end -}}
{{- end -}}
{{- end }}
{{- range $path, $of := dict "redis.external" $redis.external "redis.auth" $redis.auth "postgresql.auth" $pg.auth "postgresql.external" $pg.external -}}
{{- if and $of.password $of.existingSecret }}
- {{ $path }}.password and {{ $path }}.existingSecret are both set: remove one of them (the Secret is safer)
{{- end -}}
{{- end }}
{{- range $path, $of := dict "redis.external" $redis.external "redis.auth" $redis.auth "postgresql.auth" $pg.auth "postgresql.external" $pg.external -}}
{{- if kindIs "float64" $of.password }}
- {{ $path }}.password is a number in a values file, and would lose digits: put it in quotes
{{- end -}}
{{- end }}
{{- range $path, $of := dict "redis.external" $redis.external "redis.auth" $redis.auth "postgresql.auth" $pg.auth "postgresql.external" $pg.external -}}
{{- if regexMatch "[\\r\\n]+[^\\r\\n]" (toString $of.password) }}
- {{ $path }}.password contains a line break: remove it
{{- end -}}
{{- end }}
{{- range $path, $host := dict "redis.external.host" $redis.external.host "postgresql.external.host" $pg.external.host "redis.tls.serverName" $redis.tls.serverName "listenAddress" $v.listenAddress -}}
{{- if regexMatch "[/@\\s]|^[^:]+:[0-9]*$" $host }}
- {{ $path }}={{ $host | quote }} is more than a host: leave out scheme, user and path; the port is {{ ternary "fixed" (printf "%s.port" (trimSuffix ".host" $path)) (not (hasSuffix ".host" $path)) }}
{{- end -}}
{{- end }}
{{- with $redis.external }}
{{- if and .existingSecretUsernameKey (not .existingSecret) }}
- redis.external.existingSecretUsernameKey needs redis.external.existingSecret
{{- end }}
{{- if and .existingSecretUsernameKey .username }}
- redis.external.username and redis.external.existingSecretUsernameKey are both set: remove one of them
{{- end }}
{{- if and .username (not (or .password .existingSecret)) }}
- redis.external.username is set without a password: set redis.external.existingSecret or redis.external.password
{{- end }}
{{- if and .externalNameService (regexMatch "^([0-9.]+|.*:.*)$" .host) }}
- redis.external.externalNameService needs a host name in redis.external.host, not an address: an ExternalName is a DNS alias
{{- end }}
{{- end }}

{{- /* TLS to Redis. */}}
{{- $a := $redis.external.tls }}{{- $b := $redis.tls.enabled }}
{{- if and (not (kindIs "invalid" $a)) (not (kindIs "invalid" $b)) (ne $a $b) }}
- redis.external.tls={{ $a }} and redis.tls.enabled={{ $b }} contradict each other: they are the same setting, set one of them
{{- end }}
{{- with $redis.tls }}
{{- if not (include "telemetry.redis.tls" $) -}}
{{- $given := list -}}
{{- range $key := list "ca" "cert" "key" "existingSecret" "serverName" "insecureSkipVerify" }}{{- if get $redis.tls $key }}{{- $given = append $given (printf "redis.tls.%s" $key) }}{{- end }}{{- end -}}
{{- if .certificate.create }}{{- $given = append $given "redis.tls.certificate.create" }}{{- end -}}
{{- if $given }}
- {{ join ", " $given }} set, but TLS to Redis is off: set redis.tls.enabled=true, or remove {{ ternary "it" "them" (eq (len $given) 1) }}
{{- end -}}
{{- end }}
{{- if and .cert (not .key) }}
- redis.tls.cert is set without redis.tls.key
{{- end }}
{{- if and .key (not .cert) }}
- redis.tls.key is set without redis.tls.cert
{{- end }}
{{- if and .existingSecret (or .ca .cert .key .certificate.create) }}
- redis.tls.existingSecret cannot be combined with redis.tls.ca, cert, key or certificate.create: put everything into the Secret
{{- end }}
{{- if and .certificate.create (or .ca .cert .key) }}
- redis.tls.certificate.create cannot be combined with redis.tls.ca, cert or key: cert-manager creates them
{{- end }}
{{- if and .certificate.create (not .certificate.issuerRef.name) }}
- redis.tls.certificate.create needs redis.tls.certificate.issuerRef.name, the cert-manager issuer
{{- end }}
{{- if ne (empty .existingSecretKeys.cert) (empty .existingSecretKeys.key) }}
- redis.tls.existingSecretKeys.cert and redis.tls.existingSecretKeys.key must be set together
{{- end }}
{{- if and $redis.enabled (include "telemetry.redis.tls" $) (not (or .existingSecret .certificate.create .cert)) }}
- the Redis of this release uses TLS, but has no certificate: set redis.tls.existingSecret, redis.tls.cert and redis.tls.key, or redis.tls.certificate.create
{{- end }}
{{- end }}

{{- /* PostgreSQL. */}}
{{- if $pg.enabled }}
{{- if not (or $pg.auth.password $pg.auth.existingSecret) }}
- the PostgreSQL of this release needs a password: set postgresql.auth.existingSecret (a Secret with the key {{ $pg.auth.existingSecretPasswordKey }}) or postgresql.auth.password; with a PostgreSQL of your own, set postgresql.enabled=false and postgresql.external.host
{{- end }}
{{- range $key := list "password" "existingSecret" -}}
{{- if get $pg.external $key }}
- postgresql.external.{{ $key }} is set, but postgresql.enabled=true runs a PostgreSQL in this release: set postgresql.enabled=false to use the external one, or set the password of the one in this release as postgresql.auth.{{ $key }}
{{- end -}}
{{- end }}
{{- if $pg.external.host }}
- postgresql.external.host is set, but postgresql.enabled=true runs a PostgreSQL in this release: set postgresql.enabled=false to use the external one
{{- end }}
{{- else -}}
{{- if not $pg.external.host -}}
{{- $without := list -}}
{{- range $key := list "collector" "apiGateway" -}}
{{- $c := get $v $key -}}
{{- if and $c.enabled (not (include "telemetry.hasEnv" (dict "env" $c.extraEnv "name" "DATABASE_URL"))) (not $c.extraEnvFrom) -}}
{{- $without = append $without $key -}}
{{- end -}}
{{- end -}}
{{- with $without }}
- there is no PostgreSQL for {{ join ", " . }}: set postgresql.external.host, or postgresql.enabled=true for one in this release
{{- end -}}
{{- end -}}
{{- if or $v.collector.enabled $v.apiGateway.enabled -}}
{{- range $key := list "password" "existingSecret" -}}
{{- if get $pg.auth $key }}
- postgresql.auth.{{ $key }} is for the PostgreSQL of this release, but postgresql.enabled=false: use postgresql.external.{{ $key }}
{{- end -}}
{{- end -}}
{{- end }}
{{- with $pg.external -}}
{{- if and .tls.ca .tls.existingSecret }}
- postgresql.external.tls.ca and postgresql.external.tls.existingSecret are both set: remove one of them
{{- end }}
{{- if and (or .tls.ca .tls.existingSecret) (has .sslmode (list "disable" "prefer")) }}
- postgresql.external.tls is set, but sslmode={{ .sslmode }} does not verify anything: set postgresql.external.sslmode=verify-full
{{- end }}
{{- if ne (empty .tls.existingSecretKeys.cert) (empty .tls.existingSecretKeys.key) }}
- postgresql.external.tls.existingSecretKeys.cert and postgresql.external.tls.existingSecretKeys.key must be set together
{{- end }}
{{- end -}}
{{- end }}

{{- /* Files of streamers. */}}
{{- if $v.streamer.enabled }}
{{- with $v.streamer.csv }}
{{- $kind := $v.streamer.kind | default (ternary "DaemonSet" "Deployment" (eq .source "hostPath")) }}
{{- if and (eq .source "persistentVolumeClaim") (not .persistentVolumeClaim.claimName) }}
- streamer.csv.source=persistentVolumeClaim needs streamer.csv.persistentVolumeClaim.claimName
{{- end }}
{{- if and (eq .source "hostPath") (not .hostPath.path) }}
- streamer.csv.source=hostPath needs streamer.csv.hostPath.path, the directory on each node
{{- end }}
{{- if and (eq .source "volume") (not .volume) }}
- streamer.csv.source=volume needs streamer.csv.volume, such as {nfs: {server: …, path: …}}
{{- end }}
{{- if and .configMap.name .configMap.data }}
- streamer.csv.configMap.name and streamer.csv.configMap.data are both set: remove one of them
{{- end }}
{{- range $source, $given := dict "persistentVolumeClaim" .persistentVolumeClaim.claimName "hostPath" .hostPath.path "volume" .volume "configMap" (or .configMap.name .configMap.data) }}
{{- if and $given (ne $source $v.streamer.csv.source) }}
- streamer.csv.{{ $source }} is set, but streamer.csv.source={{ $v.streamer.csv.source }}: set streamer.csv.source={{ $source }}, or remove it
{{- end }}
{{- end }}
{{- if gt (len (toJson .configMap.data)) 1000000 }}
- streamer.csv.configMap.data is larger than a ConfigMap can be (1 MiB): put the files on a volume, or compress them (`kubectl create configmap NAME --from-file=run.csv.gz`, streamer.csv.configMap.name=NAME)
{{- end }}
{{- range .patterns }}
{{- if or (hasPrefix "/" .) (contains ".." .) }}
- streamer.csv.patterns: {{ . | quote }} must be below the mounted directory, such as "*.csv"
{{- end }}
{{- end }}
{{- if not .patterns }}
{{- range $name, $_ := .configMap.data }}
{{- if not (regexMatch "\\.csv(\\.gz)?$" $name) }}
- streamer.csv.configMap.data.{{ $name }} is not read: streamers read *.csv and *.csv.gz; rename it, or add it to streamer.csv.patterns
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq $kind "DaemonSet") (eq .source "persistentVolumeClaim") }}
- streamer.kind=DaemonSet with a persistentVolumeClaim: every node would read the same files; use a Deployment
{{- end }}
{{- end }}
{{- end }}

{{- /* The gateway. */}}
{{- with $v.apiGateway }}
{{- if and .ingress.enabled (not .enabled) }}
- apiGateway.ingress.enabled=true needs apiGateway.enabled=true
{{- end }}
{{- if and .ingress.enabled (not .ingress.hosts) }}
- apiGateway.ingress.enabled=true needs apiGateway.ingress.hosts
{{- end }}
{{- if and .trustedProxies (or (dig "http" "trusted_proxies" nil .config) (dig "http" "trusted_proxies" nil $v.config)) }}
- apiGateway.trustedProxies and http.trusted_proxies in config are both set: remove it from config
{{- end }}
{{- if and .tls.enabled (not (or .tls.existingSecret .tls.certificate.create)) }}
- apiGateway.tls.enabled=true needs apiGateway.tls.existingSecret (tls.crt, tls.key), or apiGateway.tls.certificate.create
{{- end }}
{{- if and (not .tls.enabled) (or .tls.existingSecret .tls.certificate.create) }}
- apiGateway.tls has a certificate, but is disabled: set apiGateway.tls.enabled=true
{{- end }}
{{- if and .tls.existingSecret .tls.certificate.create }}
- apiGateway.tls.existingSecret and apiGateway.tls.certificate.create are both set: remove one of them
{{- end }}
{{- if and .tls.certificate.create (not .tls.certificate.issuerRef.name) }}
- apiGateway.tls.certificate.create needs apiGateway.tls.certificate.issuerRef.name, the cert-manager issuer
{{- end }}
{{- if and .service.nodePort (eq .service.type "ClusterIP") }}
- apiGateway.service.nodePort is set, but a Service of type ClusterIP has no node port: set apiGateway.service.type to NodePort or LoadBalancer
{{- end }}
{{- if and .service.loadBalancerSourceRanges (ne .service.type "LoadBalancer") }}
- apiGateway.service.loadBalancerSourceRanges is set, but has no effect with apiGateway.service.type={{ .service.type }}: set the type to LoadBalancer, or use networkPolicy.apiGateway.from
{{- end }}
{{- if lt (int .terminationGracePeriodSeconds) (int (add .preStopSeconds 10)) }}
- apiGateway.terminationGracePeriodSeconds={{ int .terminationGracePeriodSeconds }} leaves no time to drain after preStopSeconds={{ int .preStopSeconds }}: set at least {{ add .preStopSeconds 10 }}
{{- end }}
{{- end }}

{{- /* Variables: each name once. */}}
{{- range $key := list "streamer" "collector" "apiGateway" "probe" -}}
{{- $names := list -}}
{{- range (get $v $key).extraEnv -}}
{{- if has .name $names }}
- {{ $key }}.extraEnv contains {{ .name }} twice: remove one of them
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end }}

{{- /* Network and alerts. */}}
{{- range $key, $inside := dict "redis" $redis.enabled "postgresql" $pg.enabled -}}
{{- $of := get $v.networkPolicy $key -}}
{{- if and $v.networkPolicy.enabled $inside (or $of.cidrs $of.to $of.extraPorts) }}
- networkPolicy.{{ $key }} is for an external server, but {{ $key }}.enabled=true uses the one of this release: remove networkPolicy.{{ $key }}
{{- end -}}
{{- end }}
{{- $alerts := include "telemetry.alerts" . | fromYaml -}}
{{- range $v.monitoring.prometheusRule.disabled -}}
{{- if not (hasKey $alerts .) }}
- monitoring.prometheusRule.disabled: there is no alert {{ . }}; the alerts are {{ keys $alerts | sortAlpha | join ", " }}
{{- end -}}
{{- end }}

{{- /* Scaling. */}}
{{- with $v.autoscaling }}
{{- if and .keda.enabled (not .keda.serverAddress) }}
- autoscaling.keda.enabled=true needs autoscaling.keda.serverAddress, the URL of the Prometheus to query
{{- end }}
{{- range $key := list "collector" "apiGateway" "keda" -}}
{{- $scale := get $v.autoscaling $key -}}
{{- if gt (int $scale.minReplicas) (int $scale.maxReplicas) }}
- autoscaling.{{ $key }}.minReplicas={{ int $scale.minReplicas }} is greater than maxReplicas={{ int $scale.maxReplicas }}
{{- end -}}
{{- end }}
{{- end }}

{{- /* Keys of the configuration file that have a value here. */}}
{{- range $at, $config := dict "config" $v.config "streamer.config" $v.streamer.config "collector.config" $v.collector.config "apiGateway.config" $v.apiGateway.config "probe.config" $v.probe.config -}}
{{- range $key, $instead := include "telemetry.ownedKeys" $ | fromYaml -}}
{{- $value := $config -}}
{{- range splitList "." $key }}{{- $value = ternary $value (dict) (kindIs "map" $value) | dig . nil }}{{- end -}}
{{- if not (kindIs "invalid" $value) }}
- {{ $at }}.{{ $key }}: {{ $instead }}
{{- end -}}
{{- end -}}
{{- end }}
{{- end }}

{{/* Keys of the configuration file that other values set → the message that names the value. */}}
{{- define "telemetry.ownedKeys" -}}
cluster: set clusterName
log.format: set log.format
log.level: set log.level
admin.listen: set listenAddress; the port is 9464
redis.url: set redis.external.host and port
redis.username: set redis.external.username
redis.password: set redis.external.existingSecret; this becomes a ConfigMap
redis.password_file: set redis.external.existingSecret
redis.tls: set redis.tls
postgres.url: set postgresql.external
postgres.password: set postgresql.external.existingSecret; this becomes a ConfigMap
postgres.password_file: set postgresql.external.existingSecret
stream.csv: set streamer.csv
stream.follow: remove it, streamers of this chart always follow their files
http.listen: set listenAddress; the port is 8080
http.tokens_file: set apiGateway.auth.existingSecret
http.insecure_open: leave apiGateway.auth.existingSecret empty
http.tls_cert_file: set apiGateway.tls
http.tls_key_file: set apiGateway.tls
shutdown.deadline: set terminationGracePeriodSeconds of the component
{{- end }}

{{/* ${NAME} in a value: the user expects Helm to expand variables, which it does not. */}}
{{- define "telemetry.unexpanded" -}}
{{- $path := .path -}}
{{- if kindIs "map" .value -}}
{{- range $key, $value := .value }}{{- include "telemetry.unexpanded" (dict "path" (printf "%s.%s" $path $key) "value" $value) }}{{- end -}}
{{- else if kindIs "slice" .value -}}
{{- range $i, $value := .value }}{{- include "telemetry.unexpanded" (dict "path" (printf "%s[%d]" $path $i) "value" $value) }}{{- end -}}
{{- else if kindIs "string" .value -}}
{{- if regexMatch (ternary "^\\$\\{" "\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}" (hasSuffix "password" $path)) .value }}
- {{ $path }} is the text {{ ternary "${…}" .value (hasSuffix "password" $path) }}: Helm does not expand variables in values files. Remove it from the file, and let the shell expand it: --set {{ $path }}="${NAME}"
{{- if hasSuffix "password" $path }}; or set a Secret in {{ $path | trimSuffix "password" }}existingSecret{{ end }}
{{- end -}}
{{- end -}}
{{- end }}
