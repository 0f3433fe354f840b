{{- define "stallwatch.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* At most 48 characters: Kubernetes appends to the names of pods, and we to those of other objects. */ -}}
{{- define "stallwatch.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" }}
{{- else if contains (include "stallwatch.name" .) .Release.Name }}
{{- .Release.Name | trunc 48 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "stallwatch.name" .) | trunc 48 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* These never change: a workload's selector cannot be edited. */ -}}
{{- define "stallwatch.selectorLabels" -}}
app.kubernetes.io/name: {{ include "stallwatch.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "stallwatch.detectorLabels" -}}
{{ include "stallwatch.selectorLabels" . }}
app.kubernetes.io/component: detector
{{- end }}

{{- define "stallwatch.rayLabels" -}}
{{ include "stallwatch.selectorLabels" . }}
app.kubernetes.io/component: ray
{{- end }}

{{- define "stallwatch.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "stallwatch.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: stallwatch
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "stallwatch.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "stallwatch.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "stallwatch.image" -}}
{{- $image := .Values.image }}
{{- $repository := $image.repository }}
{{- if $image.registry }}
{{- $repository = printf "%s/%s" (trimSuffix "/" $image.registry) $repository }}
{{- end }}
{{- if $image.digest }}
{{- printf "%s@%s" $repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{- /* Where agents connect to: HOST:PORT, as seen from any namespace of the cluster. */ -}}
{{- define "stallwatch.endpoint" -}}
{{- printf "%s.%s.svc:%d" (include "stallwatch.fullname" .) .Release.Namespace (int .Values.service.grpcPort) }}
{{- end }}

{{- define "stallwatch.httpScheme" -}}
{{- if and .Values.tls.existingSecret .Values.tls.http }}https{{ else }}http{{ end }}
{{- end }}

{{- define "stallwatch.httpUrl" -}}
{{- printf "%s://%s.%s.svc:%d" (include "stallwatch.httpScheme" .) (include "stallwatch.fullname" .) .Release.Namespace (int .Values.service.httpPort) }}
{{- end }}

{{- define "stallwatch.rayClusterName" -}}
{{- printf "%s-ray" (include "stallwatch.fullname" .) }}
{{- end }}

{{- /* HOST:PORT of the Ray head; empty when Ray is embedded. KubeRay names the head's Service after the cluster. */ -}}
{{- define "stallwatch.rayAddress" -}}
{{- if eq .Values.ray.mode "existing" }}
{{- .Values.ray.address }}
{{- else if eq .Values.ray.mode "kuberay" }}
{{- printf "%s-head-svc.%s.svc:6379" (include "stallwatch.rayClusterName" .) .Release.Namespace }}
{{- end }}
{{- end }}

{{- /* "true" when several gateways may run at once: their analyzers and their store are outside of each of them. */ -}}
{{- define "stallwatch.scalesOut" -}}
{{- if and (ne .Values.ray.mode "embedded") .Values.store.existingSecret }}true{{ end }}
{{- end }}

{{- /* Combinations that cannot work end the rendering, with the value to change. */ -}}
{{- define "stallwatch.validate" -}}
{{- $ray := .Values.ray }}
{{- if and (eq $ray.mode "existing") (not $ray.address) }}
{{- fail "ray.address is required when ray.mode is existing: set it to HOST:PORT of the Ray head, like raycluster-head-svc.ray.svc:6379" }}
{{- end }}
{{- if and (ne $ray.mode "existing") $ray.address }}
{{- fail (printf "ray.address is set but ray.mode is %s: set ray.mode to existing to use that cluster, or remove ray.address" $ray.mode) }}
{{- end }}
{{- if not (include "stallwatch.scalesOut" .) }}
{{- $why := "needs ray.mode existing or kuberay, and store.existingSecret with the URL of a PostgreSQL database: an embedded Ray and a SQLite file belong to one pod" }}
{{- if gt (int .Values.replicaCount) 1 }}
{{- fail (printf "replicaCount %d %s" (int .Values.replicaCount) $why) }}
{{- end }}
{{- if .Values.autoscaling.enabled }}
{{- fail (printf "autoscaling.enabled %s" $why) }}
{{- end }}
{{- end }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas %d is above autoscaling.maxReplicas %d" (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}
{{- end }}
{{- $workers := $ray.cluster.workers }}
{{- if gt (int $workers.minReplicas) (int $workers.maxReplicas) }}
{{- fail (printf "ray.cluster.workers.minReplicas %d is above ray.cluster.workers.maxReplicas %d" (int $workers.minReplicas) (int $workers.maxReplicas)) }}
{{- end }}
{{- if and .Values.tls.clientCA (not .Values.tls.existingSecret) }}
{{- fail "tls.clientCA is a key of the Secret tls.existingSecret, which is not set: set it, or remove tls.clientCA" }}
{{- end }}
{{- if and .Values.auth.openRead (not .Values.auth.existingSecret) }}
{{- fail "auth.openRead lets reading go without a token, and no token is asked for: set auth.existingSecret, or remove auth.openRead" }}
{{- end }}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled }}
{{- fail "podMonitor.enabled and serviceMonitor.enabled would scrape every pod twice: enable one of them" }}
{{- end }}
{{- end }}
