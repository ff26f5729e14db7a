#!/usr/bin/env bash
# Both sides on a laptop: three kind clusters (shared, central, edge), the image, Redis over TLS with its ACL users, and generated rows
# from a ConfigMap of the edge to the API of the central cluster. Needs docker with buildx, kind, kubectl, helm, and a telemetry binary that
# generates the rows (make build). Run it again after a change; `kind.sh down` removes everything.
set -euo pipefail
cd "$(dirname "$0")/../.."

image=telemetry:0.1.0
telemetry="${TELEMETRY_BIN:-target/release/telemetry}"
work="${KIND_WORK:-target/kind}"
mkdir -p "$work"

if [ "${1:-}" = down ]; then
    for cluster in shared central edge; do kind delete cluster --name "telemetry-$cluster"; done
    exit
fi

in_cluster() { # CLUSTER COMMAND…
    local context="kind-telemetry-$1" program="$2"
    shift 2
    case "$program" in
        helm) helm --kube-context "$context" "$@" ;;
        kubectl) kubectl --context "$context" "$@" ;;
    esac
}
apply_secret() { # CLUSTER NAMESPACE NAME FLAGS…
    local cluster="$1" namespace="$2" name="$3"
    shift 3
    in_cluster "$cluster" kubectl create namespace "$namespace" --dry-run=client --output yaml | in_cluster "$cluster" kubectl apply -f -
    in_cluster "$cluster" kubectl --namespace "$namespace" create secret generic "$name" "$@" --dry-run=client --output yaml |
        in_cluster "$cluster" kubectl apply -f -
}

for cluster in shared central edge; do
    kind get clusters | grep -qx "telemetry-$cluster" || kind create cluster --name "telemetry-$cluster"
done
make image IMAGE="$image"
for cluster in central edge; do kind load docker-image --name "telemetry-$cluster" "$image"; done

# Containers of the same Docker network, and the pods in them, can resolve the name of the node of the shared cluster.
host="telemetry-shared-control-plane"
if [ ! -f "$work/tls.crt" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=telemetry laptop authority" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout "$work/ca.key" -out "$work/ca.crt"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=redis -keyout "$work/tls.key" -out "$work/tls.csr"
    printf 'subjectAltName=DNS:%s,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' "$host" >"$work/extensions"
    openssl x509 -req -in "$work/tls.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -CAcreateserial -days 365 -extfile "$work/extensions" \
        -out "$work/tls.crt"
fi
for user in admin edge central db; do
    [ -f "$work/$user-password" ] || openssl rand -hex 16 | tr -d '\n' >"$work/$user-password"
done

apply_secret shared shared-infrastructure redis-auth --from-file="$work/admin-password" --from-file="$work/edge-password" \
    --from-file="$work/central-password"
apply_secret shared shared-infrastructure redis-tls --from-file="$work/ca.crt" --from-file="$work/tls.crt" --from-file="$work/tls.key"
names="$(printf "$host,%.0s" 1 2 3 4 5 6)"
in_cluster shared helm upgrade --install redis-cluster ./charts/redis-cluster --namespace shared-infrastructure \
    --set auth.existingSecret=redis-auth,tls.existingSecret=redis-tls,persistence.size=1Gi,maxmemory=128mb,resources.requests.memory=64Mi \
    --set "external.enabled=true,external.type=NodePort,external.hostnames={${names%,}}" --wait --timeout 10m

for side in edge central; do
    apply_secret "$side" telemetry-system redis --from-file=password="$work/$side-password"
    apply_secret "$side" telemetry-system redis-ca --from-file="$work/ca.crt"
done
redis=(--set redis.external.host="$host" --set redis.external.port=30100 --set redis.external.existingSecret=redis --set redis.tls.existingSecret=redis-ca
    --set image.repository="${image%:*}" --set image.tag="${image#*:}")

apply_secret central telemetry-system db --from-file=password="$work/db-password"
in_cluster central helm upgrade --install telemetry-central ./charts/telemetry-pipeline --namespace telemetry-system \
    --values ./charts/telemetry-pipeline/values-central.yaml "${redis[@]}" --set redis.external.username=central \
    --set postgresql.auth.existingSecret=db,postgresql.persistence.size=1Gi,collector.replicaCount=2 --wait --timeout 10m

"$telemetry" generate --gpus 4 --duration 2m >"$work/gpus.csv"
gzip -kf "$work/gpus.csv"
in_cluster edge kubectl --namespace telemetry-system create configmap telemetry-edge-csv --from-file="$work/gpus.csv.gz" --dry-run=client --output yaml |
    in_cluster edge kubectl apply --server-side -f -
in_cluster edge helm upgrade --install telemetry-edge ./charts/telemetry-pipeline --namespace telemetry-system \
    --values ./charts/telemetry-pipeline/values-edge.yaml "${redis[@]}" --set redis.external.username=edge --wait --timeout 10m

in_cluster edge helm test telemetry-edge --namespace telemetry-system --logs
in_cluster central helm test telemetry-central --namespace telemetry-system --logs
in_cluster central kubectl --namespace telemetry-system exec deployment/telemetry-central-collector -- telemetry audit
echo "the API: kubectl --context kind-telemetry-central --namespace telemetry-system port-forward service/telemetry-central-api-gateway 8080"
