{{- /* Environment with which a process joins the Ray cluster. */ -}}
{{- define "stallwatch.rayEnv" -}}
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
{{- if .Values.ray.auth.existingSecret }}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .Values.ray.auth.existingSecret }}
      key: {{ .Values.ray.auth.key }}
{{- end }}
{{- if .Values.ray.tls.existingSecret }}
- name: RAY_USE_TLS
  value: "1"
- name: RAY_TLS_SERVER_CERT
  value: /etc/ray/tls/{{ .Values.ray.tls.certKey }}
- name: RAY_TLS_SERVER_KEY
  value: /etc/ray/tls/{{ .Values.ray.tls.privateKeyKey }}
- name: RAY_TLS_CA_CERT
  value: /etc/ray/tls/{{ .Values.ray.tls.caKey }}
{{- end }}
{{- end }}

{{- /* Ray writes its session to /tmp, and the root file system is read-only. */ -}}
{{- define "stallwatch.homeEnv" -}}
- name: HOME
  value: /tmp
- name: TMPDIR
  value: /tmp
{{- end }}

{{- /* The store's URL and what else an analyzer reads: also on the nodes of a RayCluster of our own. */ -}}
{{- define "stallwatch.rayVolumeMounts" -}}
- name: tmp
  mountPath: /tmp
- name: shared-memory
  mountPath: /dev/shm
{{- if .Values.ray.tls.existingSecret }}
- name: ray-tls
  mountPath: /etc/ray/tls
  readOnly: true
{{- end }}
{{- end }}

{{- define "stallwatch.rayTlsVolume" -}}
{{- if .Values.ray.tls.existingSecret }}
- name: ray-tls
  secret:
    secretName: {{ .Values.ray.tls.existingSecret }}
{{- end }}
{{- end }}

{{- define "stallwatch.podTemplate" -}}
{{- $embedded := eq .Values.ray.mode "embedded" }}
{{- $scheme := ternary ", scheme: HTTPS" "" (eq (include "stallwatch.httpScheme" .) "https") }}
metadata:
  labels:
    {{- include "stallwatch.labels" . | nindent 4 }}
    app.kubernetes.io/component: detector
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: detector
    checksum/config: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  serviceAccountName: {{ include "stallwatch.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  terminationGracePeriodSeconds: {{ int .Values.terminationGracePeriodSeconds }}
  {{- if not $embedded }}
  initContainers:
    # Runs beside the detector, starts before it and ends after it: a Ray driver must be on a node of its cluster.
    - name: ray-node
      restartPolicy: Always
      image: {{ include "stallwatch.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      # What a node that died has left behind would be taken for this one's.
      command: [sh, -c, 'rm -rf /tmp/ray && exec ray start "$@"', ray-node]
      args:
        - --address={{ include "stallwatch.rayAddress" . }}
        - --num-cpus=0
        - --object-store-memory={{ int64 .Values.ray.node.objectStoreMemoryBytes }}
        - --disable-usage-stats
        - --block
      env:
        {{- include "stallwatch.homeEnv" . | nindent 8 }}
        {{- include "stallwatch.rayEnv" . | nindent 8 }}
      startupProbe:
        exec:
          command: [test, -S, /tmp/ray/session_latest/sockets/raylet]
        periodSeconds: 1
        failureThreshold: 120
      resources:
        {{- toYaml .Values.ray.node.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        {{- include "stallwatch.rayVolumeMounts" . | nindent 8 }}
        {{- if not (include "stallwatch.scalesOut" .) }}
        # With a store in SQLite the analyzers run here.
        - name: data
          mountPath: /var/lib/stallwatch
        {{- end }}
  {{- end }}
  containers:
    - name: detector
      image: {{ include "stallwatch.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [stallwatch]
      args:
        - serve
        - --host=0.0.0.0
        - --grpc-port=9846
        - --http-port=9847
        - --data-dir=/var/lib/stallwatch
        {{- with include "stallwatch.rayAddress" . }}
        - --ray-address={{ . }}
        {{- end }}
        {{- if .Values.auth.existingSecret }}
        - --tokens=/etc/stallwatch/auth/{{ .Values.auth.key }}
        {{- if .Values.auth.openRead }}
        - --open-read
        {{- end }}
        {{- end }}
        {{- if .Values.tls.existingSecret }}
        - --tls-cert=/etc/stallwatch/tls/{{ .Values.tls.certKey }}
        - --tls-key=/etc/stallwatch/tls/{{ .Values.tls.privateKeyKey }}
        {{- with .Values.tls.clientCA }}
        - --tls-client-ca=/etc/stallwatch/tls/{{ . }}
        {{- end }}
        {{- if not .Values.tls.http }}
        - --no-http-tls
        {{- end }}
        {{- end }}
        {{- range .Values.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      envFrom:
        - configMapRef:
            name: {{ include "stallwatch.fullname" . }}
        {{- with .Values.extraEnvFrom }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      env:
        {{- include "stallwatch.homeEnv" . | nindent 8 }}
        {{- include "stallwatch.rayEnv" . | nindent 8 }}
        {{- if .Values.store.existingSecret }}
        - name: STALLWATCH_STORE_URL
          valueFrom:
            secretKeyRef:
              name: {{ .Values.store.existingSecret }}
              key: {{ .Values.store.key }}
        {{- end }}
        {{- if .Values.alerts.existingSecret }}
        - name: STALLWATCH_ALERTS
          valueFrom:
            secretKeyRef:
              name: {{ .Values.alerts.existingSecret }}
              key: {{ .Values.alerts.key }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: grpc
          containerPort: 9846
        - name: http
          containerPort: 9847
      startupProbe:
        httpGet: {path: /livez, port: http{{ $scheme }}}
        {{- toYaml .Values.startupProbe | nindent 8 }}
      livenessProbe:
        httpGet: {path: /livez, port: http{{ $scheme }}}
        {{- toYaml .Values.livenessProbe | nindent 8 }}
      readinessProbe:
        httpGet: {path: /readyz, port: http{{ $scheme }}}
        {{- toYaml .Values.readinessProbe | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - name: data
          mountPath: /var/lib/stallwatch
        {{- include "stallwatch.rayVolumeMounts" . | nindent 8 }}
        {{- /* Folders, not single files: only those follow when a Secret changes. */}}
        {{- if .Values.auth.existingSecret }}
        - name: auth
          mountPath: /etc/stallwatch/auth
          readOnly: true
        {{- end }}
        {{- if .Values.tls.existingSecret }}
        - name: tls
          mountPath: /etc/stallwatch/tls
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    - name: shared-memory
      emptyDir:
        medium: Memory
        sizeLimit: {{ .Values.ray.node.sharedMemorySize }}
    {{- include "stallwatch.dataVolume" . | nindent 4 }}
    {{- include "stallwatch.rayTlsVolume" . | nindent 4 }}
    {{- with .Values.auth.existingSecret }}
    - name: auth
      secret:
        secretName: {{ . }}
    {{- end }}
    {{- with .Values.tls.existingSecret }}
    - name: tls
      secret:
        secretName: {{ . }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
{{- end }}

{{- /* A claim of the StatefulSet's own needs no volume here. */ -}}
{{- define "stallwatch.dataVolume" -}}
{{- if or (include "stallwatch.scalesOut" .) (not .Values.persistence.enabled) }}
- name: data
  emptyDir: {}
{{- else if .Values.persistence.existingClaim }}
- name: data
  persistentVolumeClaim:
    claimName: {{ .Values.persistence.existingClaim }}
{{- end }}
{{- end }}
