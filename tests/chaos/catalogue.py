"""All faults, by name."""

from __future__ import annotations

from chaos import faults_access, faults_detector, faults_network, faults_ranks, faults_store

FAULTS = {
    fault.name: fault
    for module in (faults_network, faults_access, faults_ranks, faults_detector, faults_store)
    for fault in module.FAULTS
}
